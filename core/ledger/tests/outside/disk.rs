//! A disk that is full, or that nobody may write to. These need a file system of their own, and so the right to mount one.

use std::{fs, path::Path, process::Command};

use obleth_ledger::{Kind, OpenError, Opened, Options, Position, open};
use tempfile::TempDir;

use crate::{
    alone,
    sample::{begun, light_dir, options, record},
    shipped,
};

/// A small file system in memory, which is gone with this.
struct Small(TempDir);

impl Small {
    /// `None`, and a word about it, where that is not allowed.
    #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
    fn mount(room: &str) -> Option<Self> {
        let dir = light_dir();
        let is_mounted = mount(&["-t", "tmpfs", "-o", room, "tmpfs"], dir.path());
        if !is_mounted {
            eprintln!("skipped: a small file system cannot be mounted here; run this as root");
        }
        is_mounted.then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let full = fs::write(self.path().join("filler"), vec![1; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What still holds a file of it keeps it until then.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn mount(how: &[&str], at: &Path) -> bool {
    Command::new("mount").args(how).arg(at).status().is_ok_and(|status| status.success())
}

/// Notes so many more.
fn note(log: &Opened, numbers: std::ops::Range<u128>) {
    numbers.for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
}

#[test]
fn a_full_disk_loses_nothing_while_the_slates_have_room_and_all_of_it_is_written_when_the_disk_has() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=1m") else { return };
    let mut log = open(Options { max_bytes: 2 << 20, ..options(disk.path()) }).unwrap();
    disk.fill();
    let mut noted = 0;
    // The segment has its room already; then a write goes half through, and is tried again and again.
    while log.writer.round().is_ok() {
        note(&log, noted..noted + 200);
        noted += 200;
    }
    let (durable, by_then) = (log.tail.durable(), log.tail.noted());
    assert_eq!(log.writer.round().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(log.tail.durable(), durable, "nothing is said to be durable that is not");
    assert!(!log.tail.covers(&by_then));
    let in_slate = (noted..).find(|number| !log.slates[0].note(Kind::End, &record(*number))).unwrap();
    assert_eq!(log.tail.figures().lost, 1);
    disk.empty();
    assert!(log.writer.round().unwrap());
    log.writer.round().unwrap();
    assert!(log.tail.covers(&by_then));
    assert_eq!(shipped(&log, Position::default()), (0..in_slate).collect::<Vec<_>>());
    drop(log);
    let log = open(options(disk.path())).unwrap();
    assert_eq!(shipped(&log, Position::default()), (0..in_slate).collect::<Vec<_>>());
    assert_eq!((log.recovered.torn, log.recovered.corrupt), (0, 0));
}

#[test]
fn a_full_disk_lets_the_log_open_again_and_again_and_nothing_is_lost_or_doubled() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=1m") else { return };
    let mut log = open(options(disk.path())).unwrap();
    disk.fill();
    let mut noted = 0;
    while log.writer.round().is_ok() {
        note(&log, noted..noted + 200);
        noted += 200;
    }
    drop(log);
    // Each life leaves a segment, and then there is no room for one more.
    let mut in_slates = 0;
    for _ in 0..40 {
        let log = open(options(disk.path())).unwrap();
        in_slates = log.recovered.drained;
        note(&log, noted..noted + 3);
        noted += 3;
    }
    assert!(in_slates > 3, "the last ones could write nothing");
    // One that began is known to have, whichever life it was.
    let log = open(options(disk.path())).unwrap();
    assert!(log.slates[1].note(Kind::Start, &begun(noted)));
    drop(log);
    disk.empty();
    for _ in 0..2 {
        let log = open(options(disk.path())).unwrap();
        assert_eq!(shipped(&log, Position::default()), (0..=noted).collect::<Vec<_>>());
        assert_eq!(log.recovered.corrupt, 0);
    }
}

#[test]
fn a_log_that_opened_on_a_full_disk_is_written_once_there_is_room() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=1m") else { return };
    let mut log = open(options(disk.path())).unwrap();
    disk.fill();
    let mut noted = 0;
    while log.writer.round().is_ok() {
        note(&log, noted..noted + 100);
        noted += 100;
    }
    assert!(log.slates[1].note(Kind::Start, &begun(1_000_000)));
    drop(log);
    let mut log = loop {
        let mut log = open(options(disk.path())).unwrap();
        note(&log, noted..noted + 10);
        noted += 10;
        if log.writer.round().is_err() {
            break log;
        }
    };
    disk.empty();
    while log.writer.round().unwrap() {}
    let mut there = shipped(&log, Position::default());
    there.sort_unstable();
    assert_eq!(there, (0..noted).chain([1_000_000]).collect::<Vec<_>>());
    assert_eq!(log.tail.figures().records, there.len() as u64);
}

#[test]
fn on_a_full_disk_slates_keep_their_size_and_a_shard_that_has_none_is_refused() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=1m") else { return };
    drop(open(options(disk.path())).unwrap());
    disk.fill();
    let log = open(Options { slate_bytes: 512 << 10, ..options(disk.path()) }).unwrap();
    note(&log, 0..3);
    drop(log);
    let error = open(Options { streams: 3, slate_bytes: 512 << 10, ..options(disk.path()) }).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    disk.empty();
    let log = open(Options { streams: 3, slate_bytes: 128 << 10, ..options(disk.path()) }).unwrap();
    assert_eq!(shipped(&log, Position::default()), [0, 1, 2]);
    let size = |stream| fs::metadata(disk.path().join(format!("stream-000{stream}.slate"))).unwrap().len();
    assert_eq!([0, 1, 2].map(size), [128 << 10; 3]);
}

#[test]
fn a_segment_that_cannot_be_begun_leaves_the_last_one_to_be_written_to() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=8m,nr_inodes=40") else { return };
    let mut log = open(options(disk.path())).unwrap();
    // Room for bytes, but for no file more.
    let fillers: Vec<_> = (0..).map(|number| disk.path().join(format!("filler-{number}"))).take(40).collect();
    assert!(fillers.iter().any(|filler| fs::write(filler, "").is_err()));
    let mut noted = 0;
    while log.tail.figures().bytes < 900 << 10 {
        note(&log, noted..noted + 100);
        assert!(log.writer.round().unwrap());
        noted += 100;
    }
    assert_eq!(segments(&disk), 2, "the first, and the spare one");
    fillers.iter().for_each(|filler| drop(fs::remove_file(filler)));
    while segments(&disk) == 2 {
        note(&log, noted..noted + 10);
        assert!(log.writer.round().unwrap());
        noted += 10;
        assert!(log.tail.figures().lost == 0, "the next one begins before the log is full");
    }
    assert_eq!(shipped(&log, Position::default()), (0..noted).collect::<Vec<_>>());
}

fn segments(disk: &Small) -> usize {
    let names = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".log") && name != "spare.log").count()
}

#[test]
fn a_folder_that_cannot_be_written_to_is_refused_by_name_and_keeps_what_it_has() {
    let _alone = alone();
    let Some(disk) = Small::mount("size=1m") else { return };
    let log = open(options(disk.path())).unwrap();
    note(&log, 0..3);
    drop(log);
    assert!(mount(&["-o", "remount,ro"], disk.path()));
    let error = open(options(disk.path())).unwrap_err();
    let path = disk.path().display().to_string();
    assert!(error.to_string().contains(&path) && error.to_string().contains("Read-only"), "{error}");
    assert!(mount(&["-o", "remount,rw"], disk.path()));
    assert_eq!(shipped(&open(options(disk.path())).unwrap(), Position::default()), [0, 1, 2]);
}
