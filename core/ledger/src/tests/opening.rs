//! What a start reads, and that it knows the rest without reading it.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{begun, left, light_dir, opened, options, record, roll_to, segment};
use crate::{Checkpoint, Kind, Options, Position, open, segment::HEADER};

/// A request that is under way since the first of four segments, and how many have ended.
fn four_segments() -> (TempDir, u64) {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.slates[1].note(Kind::Start, &begun(1)));
    roll_to(&mut log, 4);
    assert!(log.slates[1].note(Kind::End, &record(2)));
    log.writer.round().unwrap();
    let ended = log.tail.figures().records;
    assert!(ended > 500);
    (dir, ended)
}

fn damage(path: &Path, range: std::ops::Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[range].iter_mut().for_each(|byte| *byte ^= 0x5A);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_start_reads_the_newest_segment_and_knows_what_is_in_the_others() {
    let (dir, ended) = four_segments();
    let size = fs::metadata(segment(dir.path(), 2)).unwrap().len() as usize;
    damage(&segment(dir.path(), 2), HEADER..size);
    let log = opened(dir.path());
    assert_eq!(
        (log.recovered.corrupt, log.recovered.lost),
        (0, 1),
        "what is not read is not known to be damaged"
    );
    assert_eq!(log.tail.figures().records, ended + 1);
    for _ in 0..2 {
        let there = log.shipped(Position::default());
        assert!(there.contains(&1) && there.contains(&2) && (there.len() as u64) < ended);
        assert_eq!(log.tail.figures().corrupt, 1, "and it is counted once when it is read");
    }
    log.tail.release(log.tail.durable());
    assert_eq!(log.tail.figures().records, 0);
}

#[test]
fn the_figures_are_right_wherever_the_sink_is_and_whichever_header_is_damaged() {
    let (dir, ended) = four_segments();
    let log = opened(dir.path());
    let log_id = log.tail.log_id();
    let (mut places, mut from, mut taken) = (vec![(Position::default(), 0)], Position::default(), 0);
    loop {
        let batch = log.tail.read(from, 70).unwrap();
        if batch.to == from {
            break;
        }
        taken += batch.records.len() as u64;
        from = batch.to;
        places.push((from, taken));
    }
    assert_eq!(taken, ended + 1);
    drop(log);
    for damaged in [None, Some(1), Some(2), Some(3), Some(4)] {
        let dir = left(dir.path());
        if let Some(number) = damaged {
            damage(&segment(dir.path(), number), 20..21);
        }
        for (position, taken) in &places {
            let checkpoint = Some(Checkpoint { log_id, position: *position });
            let dir = left(dir.path());
            let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
            assert_eq!(log.tail.figures().records, ended + 1 - taken, "at {position}, damaged {damaged:?}");
            assert_eq!(log.shipped(*position).len() as u64, ended + 1 - taken, "from {position}");
        }
    }
}

#[test]
fn a_segment_that_is_damaged_where_it_begins_is_made_up_for_by_the_one_before_it() {
    let (dir, ended) = four_segments();
    let bytes = fs::read(segment(dir.path(), 4)).unwrap();
    // The header, the positions, the start that is open, and the positions again.
    let length = |at: usize| usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]])) * 8;
    let beginning = (0..3).fold(HEADER, |at, _| at + length(at));
    for at in (0..beginning).step_by(7) {
        let dir = left(dir.path());
        damage(&segment(dir.path(), 4), at..at + 1);
        for lost in [1, 0] {
            let log = opened(dir.path());
            assert_eq!(log.recovered.lost, lost, "damaged at {at}");
            assert_eq!(log.tail.figures().records, ended + 1, "damaged at {at}");
            assert_eq!(log.recovered.drained, 0, "damaged at {at}");
        }
    }
}

#[test]
fn room_that_a_segment_did_not_use_is_no_damage() {
    let (dir, ended) = four_segments();
    for number in [2, 3] {
        let mut bytes = fs::read(segment(dir.path(), number)).unwrap();
        bytes.resize(bytes.len() + (3 << 20), 0);
        fs::write(segment(dir.path(), number), bytes).unwrap();
    }
    let log = open(Options { max_bytes: 64 << 20, ..options(dir.path()) }).unwrap();
    assert_eq!(log.shipped(Position::default()).len() as u64, ended + 1);
    assert_eq!(log.tail.figures().corrupt, 0);
}
