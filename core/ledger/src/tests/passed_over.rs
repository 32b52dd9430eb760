//! Starts that the log does not get, because it gets their ends in the same write.

use std::fs;

use uuid::Uuid;

use super::{FIRST_SEGMENT, begun, killed_in, left, light_dir, opened, record};
use crate::{
    Kind, Position, Recovered,
    drained::{Drained, Open, Room, Taken},
    frame::{self, END, MAX_NOTE, Place, START, Salt, Step, Walk},
    segment::HEADER,
};

/// Kinds and ids of the notes in these bytes.
fn notes(bytes: &[u8], salt: Salt) -> Vec<(u8, u128)> {
    let note = |step| match step {
        Step::Frame(_, frame) if [START, END].contains(&frame.kind) => {
            let id = crate::encoding::id_of(frame.body()).unwrap();
            Some((frame.kind, id.as_u128()))
        }
        _ => None,
    };
    Walk::of_segment(bytes, salt).filter_map(note).collect()
}

#[test]
fn a_start_that_ends_in_the_same_round_is_not_in_the_log_and_all_others_are() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    assert!(log.slates[0].note(Kind::Start, &begun(2)));
    assert!(log.slates[0].note(Kind::End, &record(1)));
    assert!(log.slates[0].note(Kind::Start, &begun(3)));
    assert!(log.slates[0].note(Kind::End, &record(3)));
    assert!(log.slates[1].note(Kind::Start, &begun(4)));
    log.writer.round().unwrap();
    assert!(log.slates[0].note(Kind::End, &record(2)));
    log.writer.round().unwrap();
    let bytes = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
    let there = notes(&bytes[HEADER..], Salt::of(log.tail.log_id()));
    assert_eq!(there, [(START, 2), (END, 1), (END, 3), (START, 4), (END, 2)]);
    assert_eq!(log.shipped(Position::default()), [1, 3, 2]);
    drop(log);
    let log = opened(dir.path());
    assert_eq!(log.recovered, Recovered { lost: 1, ..Recovered::default() }, "only 4 never ended");
    assert_eq!(log.shipped(Position::default()), [1, 3, 2, 4]);
}

#[test]
fn a_process_killed_at_any_byte_of_such_a_write_loses_nothing_and_doubles_nothing() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    log.writer.round().unwrap();
    let [one, two] = [&log.slates[0], &log.slates[1]];
    assert!(one.note(Kind::Start, &begun(2)));
    assert!(one.note(Kind::End, &record(1)));
    assert!(two.note(Kind::Start, &begun(3)));
    assert!(one.note(Kind::Start, &begun(4)));
    assert!(one.note(Kind::End, &record(2)));
    assert!(two.note(Kind::End, &record(3)));
    assert!(one.note(Kind::End, &record(5)));
    assert!(one.note(Kind::Start, &begun(6)));
    assert!(one.note(Kind::End, &record(4)));
    let before = left(dir.path());
    let from = log.tail.durable().offset as usize;
    log.writer.round().unwrap();
    let to = log.tail.durable().offset as usize;
    let written = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
    // Who ended has its own status, who was lost that of its start.
    let rows = [(1, 200), (2, 200), (3, 200), (4, 200), (5, 200), (6, 0)];
    killed_in(before.path(), (FIRST_SEGMENT, &written), from..=to, &rows);
}

#[test]
fn a_damaged_byte_of_such_a_write_loses_one_row_at_most_and_is_counted() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    let slate = &log.slates[0];
    for id in 1..=3 {
        assert!(slate.note(Kind::Start, &begun(id)));
        assert!(slate.note(Kind::End, &record(id)));
    }
    let from = log.tail.durable().offset as usize;
    log.writer.round().unwrap();
    let to = log.tail.durable().offset as usize;
    // Behind what is damaged stands something whole: else it may as well never have been finished.
    assert!(log.slates[0].note(Kind::End, &record(4)));
    log.writer.round().unwrap();
    drop(log);
    let written = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
    for at in from..to {
        let dir = left(dir.path());
        let mut damaged = written.clone();
        damaged[at] ^= 0x5A;
        fs::write(dir.path().join(FIRST_SEGMENT), damaged).unwrap();
        let log = opened(dir.path());
        let there = log.shipped(Position::default());
        let is_once = there.is_sorted_by(|one, next| one < next);
        assert!(is_once && there.len() >= 3 && there.contains(&4), "damaged at {at}: {there:?}");
        assert_eq!(log.recovered.corrupt, 1, "damaged at {at}");
    }
}

#[test]
fn a_start_is_in_the_log_if_its_end_has_no_room_there() {
    let salt = Salt::of(Uuid::from_u128(7));
    let [mut one, mut two] = [[0; MAX_NOTE]; 2];
    let start = frame::note(&mut one, (Kind::Start, &begun(1)), Place { stream: 0, position: 0 }, &salt);
    let behind = Place { stream: 0, position: start.len() as u64 };
    let end = frame::note(&mut two, (Kind::End, &record(1)), behind, &salt);
    let taken = |all| {
        let (mut taken, open) = (Taken::default(), Open::default());
        let copied = [start, end].concat();
        for step in Walk::of_segment(&copied, salt.clone()) {
            let Step::Frame(at, frame) = step else { unreachable!("nothing is damaged") };
            taken.take((at, &frame), &open, Room { all, reserve: 0 });
        }
        (taken, open, Drained::of(&copied))
    };
    let enough = (start.len() + end.len()) as u64;
    for (all, there, lost) in [(enough - 1, start, 1), (enough, end, 0)] {
        let (mut taken, mut open, mut drained) = taken(all);
        taken.enter(&mut drained, &mut open);
        assert_eq!((drained.bytes(), taken.lost), (there, lost));
        assert_eq!(open.len() as u64, lost, "it is remembered as long as it has no end");
    }
}
