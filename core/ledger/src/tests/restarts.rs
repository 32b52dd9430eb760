//! What a start finds of the process before it, which ended at every possible moment.

use std::{fs, path::Path};

use tempfile::tempdir;
use uuid::Uuid;

use super::{begun, opened, options, record};
use crate::{Checkpoint, Kind, OpenError, Options, Position, Recovered, open};

/// Copies what a dead process left, as it is at this moment.
fn left(from: &Path) -> tempfile::TempDir {
    let to = tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

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
    fs::copy(dir.path().join("00000000000000000001.log"), before.path().join("00000000000000000001.log"))
        .unwrap();
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
