//! A recovery that was killed: the next one finds a part of what it wrote, and the slates as they were.

use std::fs;

use super::{FIRST_SEGMENT, begun, killed_in, left, light_dir, opened, record};
use crate::{Kind, Position};

const SECOND_SEGMENT: &str = "00000000000000000002.log";

#[test]
fn a_recovery_that_was_killed_at_any_byte_of_its_writing_loses_nothing_and_doubles_nothing() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    let [one, two] = [&log.slates[0], &log.slates[1]];
    for number in [1, 2, 3] {
        assert!(one.note(Kind::Start, &begun(number)));
    }
    assert!(two.note(Kind::End, &record(4)));
    log.writer.round().unwrap();
    let [one, two] = [&log.slates[0], &log.slates[1]];
    assert!(one.note(Kind::End, &record(1)));
    assert!(two.note(Kind::Start, &begun(5)));
    assert!(one.note(Kind::End, &record(6)));
    assert!(two.note(Kind::Start, &begun(7)));
    assert!(two.note(Kind::End, &record(7)));
    assert!(one.note(Kind::Start, &begun(8)));
    drop(log);
    // Who ended has its own status, who was lost that of its start.
    let rows = [(1, 200), (2, 0), (3, 0), (4, 200), (5, 0), (6, 200), (7, 200), (8, 0)];
    let before = left(dir.path());
    let log = opened(dir.path());
    let length = log.tail.durable().offset as usize;
    drop(log);
    let written = fs::read(dir.path().join(SECOND_SEGMENT)).unwrap();
    killed_in(before.path(), (SECOND_SEGMENT, &written), 0..=length, &rows);
}

#[test]
fn a_segment_that_was_killed_before_it_had_its_name_leaves_nothing_to_the_next_one() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    (0..20).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    log.writer.round().unwrap();
    drop(log);
    // Frames of this very log, further on than the next segment's beginning will reach.
    fs::copy(dir.path().join(FIRST_SEGMENT), dir.path().join("spare.log")).unwrap();
    for _ in 0..2 {
        assert_eq!(opened(dir.path()).shipped(Position::default()), (0..20).collect::<Vec<_>>());
    }
}
