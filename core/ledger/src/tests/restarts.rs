//! What a start finds of the process before it, which ended at every possible moment.

use std::{fs, path::Path};

use tempfile::tempdir;
use uuid::Uuid;

use super::{FIRST_SEGMENT, begun, left, light_dir, opened, options, record};
use crate::{Checkpoint, Kind, OpenError, Options, Position, Recovered, open};

#[test]
fn notes_that_the_log_had_not_got_yet_are_there_after_a_restart_and_once_only() {
    let dir = tempdir().unwrap();
    let mut log = opened(dir.path());
    (0..5).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    log.writer.round().unwrap();
    (5..9).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    assert!(log.slates[1].note(Kind::End, &record(9)));
    drop(log);
    for start in 0..3 {
        let log = opened(dir.path());
        assert_eq!(log.recovered.drained, if start == 0 { 5 } else { 0 });
        assert_eq!(log.shipped(Position::default()), (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn a_slate_whose_memory_was_let_go_still_has_what_the_log_had_not_got() {
    let dir = tempdir().unwrap();
    let options = || Options { slate_bytes: 1 << 20, ..options(dir.path()) };
    let mut log = open(options()).unwrap();
    for number in 0..1000 {
        assert!(log.slates[0].note(Kind::End, &record(number)));
    }
    assert!(log.slates[0].has_much());
    log.slates[0].let_go();
    log.writer.round().unwrap();
    for number in 1000..2000 {
        assert!(log.slates[0].note(Kind::End, &record(number)));
    }
    log.slates[0].let_go();
    assert!(!log.slates[0].has_much());
    drop(log);
    let log = open(options()).unwrap();
    assert_eq!(log.recovered, Recovered { drained: 1000, ..Recovered::default() });
    assert_eq!(log.shipped(Position::default()), (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_start_without_an_end_becomes_one_row_however_often_the_process_dies() {
    let dir = tempdir().unwrap();
    let mut log = opened(dir.path());
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    assert!(log.slates[0].note(Kind::Start, &begun(2)));
    assert!(log.slates[0].note(Kind::End, &record(2)));
    log.writer.round().unwrap();
    assert!(log.slates[1].note(Kind::Start, &begun(3)));
    drop(log);
    let log = opened(dir.path());
    assert_eq!(log.recovered, Recovered { drained: 1, lost: 2, ..Recovered::default() });
    let rows = log.tail.read(Position::default(), 100).unwrap().records;
    assert_eq!(rows.len(), 3);
    assert!(rows.contains(&begun(1)) && rows.contains(&record(2)) && rows.contains(&begun(3)));
    drop(log);
    let log = opened(dir.path());
    assert_eq!(log.recovered, Recovered::default());
    assert_eq!(log.tail.figures().records, 3);
}

#[test]
fn a_slate_that_was_written_to_the_log_but_not_told_so_is_not_written_again() {
    let dir = tempdir().unwrap();
    let mut log = opened(dir.path());
    (0..3).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    let before = left(dir.path());
    log.writer.round().unwrap();
    // The log of after the write, and the slates of before: what the process knew died with it.
    fs::copy(dir.path().join(FIRST_SEGMENT), before.path().join(FIRST_SEGMENT)).unwrap();
    let log = opened(before.path());
    assert_eq!((log.recovered.drained, log.shipped(Position::default())), (0, vec![0, 1, 2]));
}

#[test]
fn two_processes_cannot_have_one_folder() {
    let dir = tempdir().unwrap();
    let log = opened(dir.path());
    assert!(matches!(open(options(dir.path())), Err(OpenError::InUse { .. })));
    drop(log);
    opened(dir.path());
}

#[test]
fn positions_are_behind_what_the_sink_has_reached_even_if_the_log_is_not() {
    let dir = tempdir().unwrap();
    let log_id = opened(dir.path()).tail.log_id();
    let position = Position { segment: 41, offset: 977 };
    let checkpoint = Some(Checkpoint { log_id, position });
    let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
    assert_eq!(log.from, position);
    assert!(log.slates[0].note(Kind::End, &record(1)));
    drop(log);
    let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
    assert_eq!(log.shipped(position), [1]);
}

#[test]
fn a_checkpoint_of_another_log_lets_nothing_go() {
    let dir = tempdir().unwrap();
    let log = opened(dir.path());
    assert!(log.slates[0].note(Kind::End, &record(1)));
    drop(log);
    drop(opened(dir.path()));
    let checkpoint = Checkpoint { log_id: Uuid::from_u128(7), position: Position { segment: 99, offset: 0 } };
    let log = open(Options { checkpoint: Some(checkpoint), ..options(dir.path()) }).unwrap();
    assert_eq!(log.from, Position::default());
    assert_eq!(log.shipped(log.from), [1]);
}

#[test]
fn a_log_of_another_format_or_node_or_none_at_all_is_refused_with_the_remedy_and_left_alone() {
    let dir = tempdir().unwrap();
    drop(opened(dir.path()));
    let meta = dir.path().join("log.meta");
    let written = fs::read_to_string(&meta).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(dir.path());
    let says = |words: &[&str]| {
        let error = open(options(dir.path())).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(names(dir.path()), before);
    };
    fs::write(&meta, written.replace("format 1", "format 7")).unwrap();
    says(&["format 7", "reads 1", "OBLETH_WAL_DIR", "empty folder", "to drain it"]);
    fs::write(&meta, written.replace("node-1", "node-2")).unwrap();
    says(&["\"node-2\"", "\"node-1\"", "OBLETH_NODE=node-2", "OBLETH_WAL_DIR", "empty folder", "drained"]);
    fs::write(&meta, "something else").unwrap();
    says(&["log.meta", "OBLETH_WAL_DIR"]);
    fs::write(&meta, written.replace("log ", "log f")).unwrap();
    says(&["log.meta", "OBLETH_WAL_DIR"]);
    fs::write(&meta, &written).unwrap();
    drop(opened(dir.path()));

    let other = tempdir().unwrap();
    drop(opened(other.path()));
    fs::copy(other.path().join(FIRST_SEGMENT), dir.path().join("00000000000000000009.log")).unwrap();
    let error = open(options(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    fs::remove_file(&meta).unwrap();
    let error = open(options(dir.path())).unwrap_err();
    assert!(error.to_string().contains("log.meta"), "{error}");
}

#[test]
fn shards_may_be_more_or_fewer_than_last_time() {
    let dir = tempdir().unwrap();
    let with = |streams, slate_bytes| open(Options { streams, slate_bytes, ..options(dir.path()) }).unwrap();
    let log = with(4, 64 << 10);
    (0..4).for_each(|at| assert!(log.slates[at].note(Kind::End, &record(at as u128))));
    drop(log);
    let log = with(1, 256 << 10);
    assert_eq!(log.shipped(Position::default()), [0, 1, 2, 3]);
    assert!(!dir.path().join("stream-0003.slate").exists());
    assert!(log.slates[0].note(Kind::End, &record(4)));
    drop(log);
    let log = with(3, 64 << 10);
    assert_eq!(log.slates.len(), 3);
    (0..3).for_each(|at| assert!(log.slates[at].note(Kind::End, &record(5 + at as u128))));
    drop(log);
    assert_eq!(with(2, 64 << 10).shipped(Position::default()), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_start_is_remembered_though_its_segment_is_long_gone() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    for number in 100..4000 {
        assert!(log.slates[1].note(Kind::End, &record(number)));
        if number % 100 == 0 {
            log.writer.round().unwrap();
            log.tail.release(log.tail.durable());
        }
    }
    log.writer.round().unwrap();
    let checkpoint = Some(Checkpoint { log_id: log.tail.log_id(), position: log.tail.durable() });
    assert!(!dir.path().join(FIRST_SEGMENT).exists(), "what is released goes");
    drop(log);
    let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
    assert_eq!(log.tail.read(log.from, 100).unwrap().records, [begun(1)]);
    assert_eq!(log.tail.figures().records, 1);
}

#[test]
fn a_log_thread_that_dies_in_the_middle_of_a_round_doubles_nothing_when_it_goes_on() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.slates[0].note(Kind::Start, &begun(1)));
    log.writer.round().unwrap();
    assert!(log.slates[0].note(Kind::End, &record(1)));
    assert!(log.slates[0].note(Kind::End, &record(2)));
    // The end of what is known needs nothing of the reserve; the next note trips over it.
    let reserve = std::mem::replace(&mut log.writer.limits.reserve, u64::MAX);
    let round = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.writer.round()));
    assert!(round.is_err(), "it died");
    log.writer.limits.reserve = reserve;
    while log.writer.round().unwrap() {}
    assert_eq!(log.shipped(Position::default()), [1, 2]);
    assert_eq!(log.tail.figures().records, 2);
}

#[test]
fn a_node_that_was_not_named_has_the_name_that_its_log_has() {
    let dir = light_dir();
    let unnamed = |machine: &str| {
        let default_node = machine.to_owned();
        let log = open(Options { node: None, default_node, ..options(dir.path()) }).unwrap();
        (log.node.clone(), log.tail.node().to_string())
    };
    let first = || ("first".to_owned(), "first".to_owned());
    assert_eq!(unnamed("first"), first());
    assert_eq!(unnamed("second"), first(), "a machine may be called something else by now");
    assert!(matches!(open(options(dir.path())), Err(OpenError::Node { found, .. }) if found == "first"));
    let named = open(Options { node: Some("first".to_owned()), ..options(dir.path()) }).unwrap();
    assert_eq!(named.node, "first");
}
