//! `kill -9` at any moment: of a process that notes, writes, ships and starts again, and of one that recovers.
//!
//! The process that is killed is this test once more, with a folder in its environment. It says on its standard output what
//! has been noted, once it has, and what it ships, which with the place reached is the sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use obleth_ledger::{Checkpoint, Kind, Opened, Options, Position, Tail, open};

use crate::{
    alone,
    sample::{begun, light_dir, options, record},
};

const DIR: &str = "OBLETH_TEST_LEDGER_DIR";
const ARGUMENTS: &str = "OBLETH_TEST_LEDGER_ARGUMENTS";
const NAME: &str = "kill::nothing_is_lost_and_nothing_is_there_twice_whenever_the_process_is_killed";
/// So much waits for the shipper at most: half of what the log takes.
const MOST_BYTES: u64 = 512 << 10;
/// Times that it is killed.
const LIVES: u128 = 60;

/// What the one who kills knows.
#[derive(Default)]
struct Known {
    started: BTreeSet<u128>,
    ended: BTreeSet<u128>,
    /// Status of every row by id.
    rows: BTreeMap<u128, u16>,
    checkpoint: Option<Checkpoint>,
}

impl Known {
    /// One line of the child's: `s ID`, `e ID`, or `ship LOG POSITION ID:STATUS…`.
    fn learn(&mut self, line: &str) {
        let mut words = line.split(' ');
        match words.next() {
            Some("s") => assert!(self.started.insert(words.next().unwrap().parse().unwrap())),
            Some("e") => assert!(self.ended.insert(words.next().unwrap().parse().unwrap())),
            Some("ship") => {
                let log_id = words.next().unwrap().parse().unwrap();
                let position = words.next().unwrap().parse().unwrap();
                self.checkpoint = Some(Checkpoint { log_id, position });
                for row in words {
                    let (id, status) = row.split_once(':').unwrap();
                    self.row(id.parse().unwrap(), status.parse().unwrap());
                }
            }
            _ => {}
        }
    }

    fn row(&mut self, id: u128, status: u16) {
        assert_eq!(self.rows.insert(id, status), None, "row {id} is there twice");
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_there_twice_whenever_the_process_is_killed() {
    if let (Some(dir), Ok(arguments)) = (env::var_os(DIR), env::var(ARGUMENTS)) {
        return live(Path::new(&dir), &arguments);
    }
    let _alone = alone();
    let dir = light_dir();
    let mut known = Known::default();
    for life in 0..LIVES {
        // Some die while they recover, some after many segments.
        let lines = [0, 1, 2, 5, 40, 300, 2500, 9000][life as usize % 8] + life as usize % 7;
        kill_after(lines, dir.path(), life, &mut known);
    }
    let log = open(with(dir.path(), known.checkpoint)).unwrap();
    let rest = log.tail.read(log.from, usize::MAX).unwrap();
    assert_eq!((rest.corrupt, log.recovered.corrupt), (0, 0));
    rest.records.iter().for_each(|row| known.row(row.id.as_u128(), row.status));
    for id in &known.ended {
        assert_eq!(known.rows.get(id), Some(&200), "{id} ended");
    }
    for id in &known.started {
        assert!(known.rows.contains_key(id), "{id} began");
    }
    // One note for each of two threads may have been taken just before it could be said.
    let unsaid =
        known.rows.keys().filter(|id| !known.started.contains(id) && !known.ended.contains(id)).count();
    assert!(unsaid as u128 <= 2 * LIVES);
    assert!(known.ended.len() > 1000, "it was given time to do something");
    let has_rolled = |at: Checkpoint| u128::from(at.position.segment) > LIVES;
    assert!(known.checkpoint.is_some_and(has_rolled), "segments were filled, shipped and begun anew");
}

/// Lets a child live until it has said so many lines, and hears what it still had to say.
fn kill_after(lines: usize, dir: &Path, life: u128, known: &mut Known) {
    let checkpoint = known.checkpoint.map(|at| format!("{} {}", at.log_id, at.position)).unwrap_or_default();
    let mut child = Command::new(env::current_exe().unwrap())
        .args([OsStr::new("--exact"), NAME.as_ref(), "--nocapture".as_ref()])
        .env(DIR, dir)
        .env(ARGUMENTS, format!("{life} {checkpoint}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut heard = 0;
    while said.read_line(&mut line).unwrap() > 0 {
        // What was killed in the middle of a line has not said it.
        if let Some(line) = line.strip_suffix('\n') {
            known.learn(line);
        }
        line.clear();
        heard += 1;
        if heard == lines + 2 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(heard > lines, "it lived until it was killed");
}

fn with(dir: &Path, checkpoint: Option<Checkpoint>) -> Options {
    Options { checkpoint, ..options(dir) }
}

/// The child: two shards that note, the log thread, and a shipper, until it is killed.
fn live(dir: &Path, arguments: &str) {
    let mut words = arguments.split(' ');
    let life: u128 = words.next().unwrap().parse().unwrap();
    let mut checkpoint = || {
        let log_id = words.next()?.parse().ok()?;
        Some(Checkpoint { log_id, position: words.next()?.parse().ok()? })
    };
    let checkpoint = checkpoint();
    say("recovering\n");
    let Opened { slates, mut writer, tail, from, .. } = open(with(dir, checkpoint)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| writer.run());
        scope.spawn(|| ship(&tail, from));
        for (shard, slate) in slates.iter().enumerate() {
            let first = life * 10_000_000 + shard as u128 * 5_000_000 + 1;
            let tail = &tail;
            scope.spawn(move || {
                for number in first.. {
                    // What a full log drops would pass for what the kill has lost. Besides this it holds what was released of
                    // a segment or two, and what the slates hold.
                    while tail.figures().bytes > MOST_BYTES {
                        thread::yield_now();
                    }
                    // Where there is no room nothing was noted, and nothing is said.
                    if slate.note(Kind::Start, &begun(number)) {
                        say(&format!("s {number}\n"));
                    }
                    if slate.note(Kind::End, &record(number)) {
                        say(&format!("e {number}\n"));
                    }
                }
            });
        }
    });
}

/// Everything of a line, or nothing: it is shorter than what a pipe takes at once.
fn say(line: &str) {
    assert!(line.len() < 4096);
    let mut out = io::stdout().lock();
    // Nobody listens any more when this process is about to be killed.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn ship(tail: &Tail, mut from: Position) {
    loop {
        let batch = tail.read(from, 40).unwrap();
        if batch.to == from {
            thread::yield_now();
            continue;
        }
        let rows = batch.records.iter().map(|row| format!(" {}:{}", row.id.as_u128(), row.status));
        say(&format!("ship {} {}{}\n", tail.log_id(), batch.to, rows.collect::<String>()));
        tail.release(batch.to);
        from = batch.to;
    }
}
