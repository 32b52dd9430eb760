//! The ledger when its machine misbehaves: a wall clock that steps, a disk that is full.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use obleth_upstream::Options;
use rustix::process::Signal;
use serde_json::Value;

use super::{
    clock::Clock,
    ledger_books::{End, named, until_they_agree},
    process::{PATIENCE, Setup, until, until_within},
    world::World,
};

const HOUR: i32 = 3600;
/// Room for a database, the notes of two shards, and the first segments of their log.
const DISK_MIB: u64 = 96;
/// After a long outage of the ledger's the gateway tries again so late.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longer than any request here takes, in milliseconds.
const LONG: u64 = PATIENCE.as_millis() as u64;

fn recording() -> Options {
    Options { journal: 1_000_000, ..Options::default() }
}

/// A name as long as a record takes in, so that a log is full after few of them.
fn name(number: usize) -> String {
    format!("r-{number:0126}")
}

/// Makes so many requests, all of which are answered.
#[track_caller]
fn make(world: &World, told: &mut BTreeMap<String, End>, count: usize) {
    let mut connection = world.connect();
    for _ in 0..count {
        let id = name(told.len());
        let more = if told.len().is_multiple_of(2) { r#","stream":true"# } else { "" };
        let request = world.chat(more).header("x-session-id", "s".repeat(128));
        let answer = connection.ask(&named(request, &id));
        assert_eq!(answer.status, 200, "{}", answer.text());
        told.insert(id, End::Whole);
    }
}

fn of<'a>(rows: &'a [Value], id: &str) -> &'a Value {
    rows.iter().find(|row| row["request_id"] == id).expect("a row of the request")
}

#[test]
fn a_clock_that_steps_back_loses_no_row_and_repeats_none() {
    let (clock, data) = (Clock::new(), tempfile::tempdir().unwrap());
    let setup = clock.given_to(Setup::new()).data_dir(data.path());
    let mut world = World::with(setup.clone(), recording());
    let mut told = BTreeMap::new();
    make(&world, &mut told, 30);
    let mut under_way = world.connect();
    let slow = world.chat(r#","stream":true"#).header("x-sim-tps", 100).header("x-sim-tokens", 30);
    under_way.send(named(slow, "under-way").bytes());
    under_way.read_until("\"content\":");
    clock.set_ahead(-HOUR);
    assert!(under_way.response().body.ends_with(b"data: [DONE]\n\n"));
    told.insert("under-way".to_owned(), End::Whole);
    make(&world, &mut told, 30);
    world.gateway.signal(Signal::KILL);
    world.gateway.wait();
    // The next one starts in the past of the last, and its clock goes on stepping.
    clock.set_ahead(-2 * HOUR);
    world.gateway = setup.start();
    make(&world, &mut told, 30);
    clock.set_ahead(HOUR);
    make(&world, &mut told, 30);
    let rows = until_they_agree(&world.gateway, world.sim.addr, &told, true);
    let first = of(&rows, &name(0))["ts"].as_str().unwrap();
    let back = of(&rows, &name(61))["ts"].as_str().unwrap();
    assert!(back < first, "rows have the time that the gateway had: {first}, then {back}");
    for row in &rows {
        assert_eq!(row["outcome"], "ok", "{row}");
        assert!(row["total_ms"].as_u64().unwrap() < LONG, "durations do not step: {row}");
        assert!(row["queue_ms"].as_u64().unwrap() < LONG, "{row}");
    }
    assert_eq!(world.gateway.metric("obleth_usage_lost_total"), 0.0);
}

/// A small file system of its own, gone with the value.
struct Disk(PathBuf);

impl Disk {
    fn mounted_at(path: &Path) -> Self {
        let size = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mounting a file system takes root");
        Self(path.to_owned())
    }

    /// Takes all of its room.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for piece in [vec![0; 64 << 10], vec![0; 1]] {
            while file.write_all(&piece).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a file system, which takes root"]
fn on_a_full_disk_serving_goes_on_and_what_waits_is_delivered_when_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::mounted_at(place.path());
    let world = World::with(Setup::new().data_dir(&place.path().join("data")), recording());
    let mut told = BTreeMap::new();
    make(&world, &mut told, 50);
    disk.fill();
    make(&world, &mut told, 500);
    assert_eq!(world.gateway.metric("obleth_usage_lost_total"), 0.0, "the notes of these have room");
    disk.make_room();
    until_they_agree(&world.gateway, world.sim.addr, &told, false);
    make(&world, &mut told, 50);
    until_they_agree(&world.gateway, world.sim.addr, &told, false);
}

#[test]
#[ignore = "mounts a file system, which takes root"]
fn what_finds_no_room_for_long_is_counted_and_shouted_once_and_everything_else_is_delivered() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::mounted_at(place.path());
    // Segments and rings of the smallest size.
    let setup = Setup::new()
        .data_dir(&place.path().join("data"))
        .env("OBLETH_WAL_MAX_BYTES", 64 << 20)
        .env("OBLETH_WAL_BUFFER_BYTES", 1 << 20);
    let world = World::with(setup, recording());
    let lost = || world.gateway.metric("obleth_usage_lost_total");
    let mut told = BTreeMap::new();
    make(&world, &mut told, 50);
    disk.fill();
    while lost() == 0.0 && told.len() < 100_000 {
        make(&world, &mut told, 500);
    }
    assert!(lost() > 0.0, "a ring holds no more than it holds");
    let shouts = world.gateway.stderr().matches("ERROR").count();
    assert!(shouts >= 1, "{}", world.gateway.stderr());
    make(&world, &mut told, 500);
    assert_eq!(world.gateway.stderr().matches("ERROR").count(), shouts, "once: {}", world.gateway.stderr());
    disk.make_room();
    let mut after = BTreeMap::new();
    until("there is room in the rings again", || {
        let before = lost();
        let id = format!("after-{}", after.len());
        assert_eq!(world.ask(&named(world.chat(""), &id)).status, 200);
        after.insert(id, End::Whole);
        lost() == before
    });
    let made = told.len() + after.len();
    until_within(LONGEST_PAUSE + PATIENCE, "every request is in the ledger, or counted as lost", || {
        let rows = super::ledger_books::rows(&world.gateway);
        let mut ids: Vec<_> = rows.iter().map(|row| row["id"].to_string()).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "no record is there twice");
        // Of a request, the start, the end, or both may have found no room.
        rows.len() >= made.saturating_sub(lost() as usize) && rows.len() <= made
    });
}
