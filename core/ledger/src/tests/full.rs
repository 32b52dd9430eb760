//! A slate or a log that has no room left: what goes on, what is lost, and that it is counted.

use super::{begun, light_dir, opened, options, record};
use crate::{Kind, Opened, Options, Position, open};

/// Notes until there is no room. Returns how many found some.
fn fill(log: &Opened, kind: Kind, from: u128) -> u128 {
    (from..).find(|number| !log.slates[0].note(kind, &record(*number))).unwrap() - from
}

#[test]
fn a_full_slate_loses_what_is_new_and_counts_it_and_goes_on_when_the_log_has_taken_the_rest() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    let kept = fill(&log, Kind::End, 0);
    assert!(kept > 200);
    assert!(!log.slates[0].note(Kind::End, &record(9999)));
    assert_eq!((log.slates[0].lost(), log.tail.figures().lost), (2, 2));
    log.writer.round().unwrap();
    assert!(log.slates[0].note(Kind::End, &record(kept)));
    log.writer.round().unwrap();
    assert_eq!(log.shipped(Position::default()), (0..=kept).collect::<Vec<_>>());
}

#[test]
fn a_ring_goes_around_for_ever() {
    let dir = light_dir();
    let mut log = open(Options { max_bytes: 64 << 20, ..options(dir.path()) }).unwrap();
    for number in 0..2000 {
        assert!(log.slates[0].note(Kind::End, &record(number)));
        if number % 97 == 0 {
            log.writer.round().unwrap();
        }
    }
    drop(log);
    let log = open(Options { max_bytes: 64 << 20, ..options(dir.path()) }).unwrap();
    assert_eq!(log.shipped(Position::default()), (0..2000).collect::<Vec<_>>());
    assert_eq!((log.recovered.corrupt, log.recovered.torn), (0, 0));
}

#[test]
fn who_began_finds_room_to_end_in_a_slate_that_takes_no_more_starts() {
    let dir = light_dir();
    let log = opened(dir.path());
    let begun = fill(&log, Kind::Start, 0);
    assert!(log.slates[0].note(Kind::End, &record(begun - 1)));
    assert_eq!(log.slates[0].lost(), 0, "a start that was not noted loses no row");
}

#[test]
fn a_full_log_loses_what_is_new_keeps_what_is_old_ends_what_it_knows_and_gets_room_again() {
    let dir = light_dir();
    let small = || Options { max_bytes: 128 << 10, ..options(dir.path()) };
    let mut log = open(small()).unwrap();
    assert!(log.slates[1].note(Kind::Start, &begun(7777)));
    let mut noted = 0;
    while log.tail.figures().lost == 0 {
        assert!(log.slates[0].note(Kind::End, &record(noted)), "serving goes on: the slate is drained");
        log.writer.round().unwrap();
        noted += 1;
    }
    assert!(log.tail.figures().bytes <= 128 << 10);
    assert!(log.tail.covers(&log.tail.noted()), "what is lost, and counted, is not waited for");
    assert!(log.slates[1].note(Kind::End, &record(7777)));
    log.writer.round().unwrap();
    assert_eq!(log.tail.figures().lost, 1, "it had begun, so there is a reserve for it");
    let there = log.shipped(Position::default());
    assert_eq!(there, (0..noted - 1).chain([7777]).collect::<Vec<_>>());

    log.tail.release(log.tail.durable());
    log.writer.round().unwrap();
    let from = log.tail.durable();
    assert!(log.slates[0].note(Kind::End, &record(8888)));
    log.writer.round().unwrap();
    assert_eq!((log.shipped(from), log.tail.figures().lost), (vec![8888], 1));
}

#[test]
fn in_a_round_in_which_some_notes_find_no_room_the_others_stay_whole() {
    let dir = light_dir();
    let small = || Options { max_bytes: 128 << 10, ..options(dir.path()) };
    let mut log = open(small()).unwrap();
    let known = [7001, 7002, 7003];
    assert!(known.iter().all(|id| log.slates[1].note(Kind::Start, &begun(*id))));
    let mut noted = 0;
    while log.tail.figures().lost == 0 {
        assert!(log.slates[0].note(Kind::End, &record(noted)));
        log.writer.round().unwrap();
        noted += 1;
    }
    for id in known {
        assert!(log.slates[1].note(Kind::End, &record(id + 1000)));
        assert!(log.slates[1].note(Kind::End, &record(id)));
    }
    log.writer.round().unwrap();
    assert_eq!(log.tail.figures().lost, 4);
    let there: Vec<_> = (0..noted - 1).chain(known).collect();
    assert_eq!(log.shipped(Position::default()), there);
    drop(log);
    let log = open(small()).unwrap();
    assert_eq!((log.recovered.corrupt, log.recovered.lost), (0, 0));
    assert!(log.shipped(Position::default()).starts_with(&there));
}

#[test]
fn a_log_that_was_full_when_the_process_died_still_gets_what_the_slates_hold() {
    let dir = light_dir();
    let small = || Options { max_bytes: 128 << 10, ..options(dir.path()) };
    let mut log = open(small()).unwrap();
    let mut noted = 0;
    // Several laps of the slate are dropped, so that the log has no idea of where it is.
    while log.tail.figures().lost < 1000 {
        assert!(log.slates[0].note(Kind::End, &record(noted)));
        log.writer.round().unwrap();
        noted += 1;
    }
    let kept = log.shipped(Position::default()).len();
    assert!(log.slates[0].note(Kind::End, &record(noted)));
    drop(log);
    let log = open(small()).unwrap();
    let there = log.shipped(Position::default());
    let mut once = there.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), there.len(), "nothing twice");
    assert!(there.len() > kept && there.contains(&noted), "what was noted last was never dropped");
    assert_eq!(log.recovered.corrupt, 0);
}

#[test]
fn a_full_log_does_not_have_its_thread_woken_by_every_note() {
    let dir = light_dir();
    let mut log = open(Options { max_bytes: 128 << 10, ..options(dir.path()) }).unwrap();
    while log.tail.figures().lost == 0 {
        assert!(log.slates[0].note(Kind::End, &record(1)));
        log.writer.round().unwrap();
    }
    assert!(log.slates[0].note(Kind::End, &record(2)));
    assert!(
        log.writer.round().unwrap(),
        "it was noted, though it is lost: the thread naps, and no bell need ring"
    );
    assert!(!log.writer.round().unwrap());
}
