//! Segments that go when they are not needed any more, and some that do not.

use std::{fs, path::Path};

use super::{FIRST_SEGMENT, begun, light_dir, opened, options, record, roll_to, segment};
use crate::{Checkpoint, Kind, Opened, Options, Position, open, segment::HEADER};

/// A request that begins in the first segment and ends in the second, and three segments. Everything is released.
fn shipped(dir: &Path) -> (Opened, Checkpoint) {
    let mut log = opened(dir);
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    roll_to(&mut log, 2);
    assert!(log.slates[0].note(Kind::End, &record(1)));
    roll_to(&mut log, 3);
    let checkpoint = Checkpoint { log_id: log.tail.log_id(), position: log.tail.durable() };
    log.tail.release(checkpoint.position);
    (log, checkpoint)
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_those_behind_it_until_it_can() {
    let dir = light_dir();
    let (mut log, _) = shipped(dir.path());
    let (first, second) = (dir.path().join(FIRST_SEGMENT), segment(dir.path(), 2));
    // A folder is no file that could be removed.
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();
    log.writer.round().unwrap();
    assert!(second.exists(), "it has the ends of what began in the first");
    fs::remove_dir(&first).unwrap();
    log.writer.round().unwrap();
    assert!(!second.exists());
}

#[test]
fn a_segment_that_was_read_gives_its_room_back_when_it_is_released() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    roll_to(&mut log, 2);
    let first = log.tail.read(Position::default(), 1).unwrap();
    let open_files = || {
        let links =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        links.filter(|file| file.starts_with(dir.path())).collect::<Vec<_>>()
    };
    let path = dir.path().join(FIRST_SEGMENT);
    assert!(open_files().contains(&path), "the next reading goes on there");
    log.tail.release(first.to);
    assert!(open_files().contains(&path));
    log.tail.release(log.tail.durable());
    log.writer.round().unwrap();
    assert!(!path.exists());
    let names = open_files();
    assert!(names.iter().all(|file| !file.to_string_lossy().contains(FIRST_SEGMENT)), "{names:?}");
}

#[test]
fn a_start_in_a_segment_that_outlived_its_successor_becomes_no_row() {
    for is_next_damaged in [false, true] {
        let dir = light_dir();
        let (mut log, checkpoint) = shipped(dir.path());
        let first = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
        log.writer.round().unwrap();
        assert!(!segment(dir.path(), 2).exists());
        drop(log);
        fs::write(dir.path().join(FIRST_SEGMENT), first).unwrap();
        if is_next_damaged {
            let mut third = fs::read(segment(dir.path(), 3)).unwrap();
            third[HEADER + 30] ^= 1;
            fs::write(segment(dir.path(), 3), third).unwrap();
        }
        for checkpoint in [None, Some(checkpoint)] {
            let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
            assert_eq!(log.recovered.lost, 0);
            assert!(!log.shipped(checkpoint.map_or(log.from, |at| at.position)).contains(&1));
        }
    }
}

#[test]
fn a_start_before_a_segment_that_the_sink_has_reached_and_that_is_gone_becomes_no_row() {
    let dir = light_dir();
    let (log, checkpoint) = shipped(dir.path());
    drop(log);
    for gone in fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if !gone.ends_with(FIRST_SEGMENT) && !gone.ends_with("log.meta") {
            fs::remove_file(gone).unwrap();
        }
    }
    let log = open(Options { checkpoint: Some(checkpoint), ..options(dir.path()) }).unwrap();
    assert_eq!((log.recovered.lost, log.tail.figures().records), (0, 0));
}
