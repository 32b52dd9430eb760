//! What a shipper sees.

use std::thread;

use tempfile::tempdir;

use super::{begun, light_dir, opened, options, record};
use crate::{Batch, Checkpoint, Kind, Options, Position, open};

#[test]
fn what_was_noted_comes_out_as_it_was_and_in_order() {
    let dir = tempdir().unwrap();
    let mut log = opened(dir.path());
    for number in 0..100 {
        assert!(log.slates[0].note(Kind::Start, &begun(number)));
        assert!(log.slates[0].note(Kind::End, &record(number)));
    }
    assert!(log.writer.round().unwrap());
    let batch = log.tail.read(Position::default(), 1000).unwrap();
    assert_eq!(batch.records, (0..100).map(record).collect::<Vec<_>>());
    assert_eq!((batch.to, batch.corrupt), (log.tail.durable(), 0));
    assert_eq!(log.tail.figures().records, 100);
    log.tail.release(batch.to);
    assert_eq!((log.tail.figures().records, log.tail.figures().bytes), (0, 0));
    assert!(!log.writer.round().unwrap(), "there is nothing more to write");
}

#[test]
fn the_thread_wakes_writes_and_rings_and_writes_the_rest_when_it_is_stopped() {
    let dir = tempdir().unwrap();
    let mut log = opened(dir.path());
    let stop = log.writer.stopper();
    let thread = thread::spawn(move || log.writer.run());
    let before = log.tail.durable();
    log.tail.bell().going_to_sleep();
    assert!(log.slates[1].note(Kind::End, &record(1)));
    if log.tail.durable() == before {
        let fd = log.tail.bell().fd();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1), "the bell rings");
    }
    log.tail.bell().awake();
    assert_eq!(log.tail.read(Position::default(), 10).unwrap().records, [record(1)]);
    assert!(log.slates[0].note(Kind::End, &record(2)));
    stop.stop();
    thread.join().unwrap();
    assert_eq!(log.tail.read(Position::default(), 10).unwrap().records, [record(1), record(2)]);
}

#[test]
fn what_was_noted_before_a_moment_is_covered_once_it_is_durable_and_not_before() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!(log.tail.covers(&log.tail.noted()), "nothing was noted");
    assert!(log.slates[0].note(Kind::End, &record(1)) && log.slates[1].note(Kind::End, &record(2)));
    let noted = log.tail.noted();
    assert!(log.slates[1].note(Kind::End, &record(3)));
    assert!(!log.tail.covers(&noted), "it is in memory alone");
    log.writer.round().unwrap();
    assert!(log.tail.covers(&noted));
    assert_eq!(log.tail.read(Position::default(), 10).unwrap().records.len(), 3);
    assert!(log.slates[1].note(Kind::End, &record(4)));
    assert!(log.tail.covers(&noted), "what came later is not asked for");
    assert!(!log.tail.covers(&log.tail.noted()));
}

#[test]
fn a_batch_can_be_read_again_exactly_also_by_a_later_process() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    for number in 0..50 {
        assert!(log.slates[0].note(Kind::Start, &begun(number)));
        assert!(log.slates[0].note(Kind::End, &record(number)));
    }
    log.writer.round().unwrap();
    let first = log.tail.read(Position::default(), 13).unwrap();
    let second = log.tail.read(first.to, 13).unwrap();
    assert_eq!(second.records, (13..26).map(record).collect::<Vec<_>>());
    assert_eq!(log.tail.read_again(second.from, second.to).unwrap(), second);
    drop(log);
    let log = opened(dir.path());
    assert_eq!(log.tail.read_again(second.from, second.to).unwrap(), second);
}

#[test]
fn a_batch_that_is_read_on_is_the_one_that_is_read_at_once_also_when_memory_was_let_go() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    (0..50).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    log.writer.round().unwrap();
    let mut batch = Batch::at(Position::default());
    for (upto, there) in [(7, 7), (7, 7), (20, 20), (100, 50)] {
        batch = log.tail.read_on(batch, upto, |record| record).unwrap();
        assert_eq!(batch.records.len(), there);
        log.tail.let_go();
    }
    assert_eq!(batch, log.tail.read(Position::default(), 100).unwrap());
    log.tail.release(batch.to);
    assert_eq!((log.tail.figures().records, log.tail.figures().bytes), (0, 0));
}

#[test]
fn the_figures_are_right_wherever_releasing_begins() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    (0..50).for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
    log.writer.round().unwrap();
    let first = log.tail.read(Position::default(), 20).unwrap();
    let checkpoint = Some(Checkpoint { log_id: log.tail.log_id(), position: first.to });
    drop(log);
    // Known from the start.
    let log = open(Options { checkpoint, ..options(dir.path()) }).unwrap();
    assert_eq!((log.from, log.tail.figures().records), (first.to, 30));
    drop(log);
    // Or said later, by somebody who has not read it here.
    let log = opened(dir.path());
    assert_eq!(log.tail.figures().records, 50);
    log.tail.release(first.to);
    assert_eq!(log.tail.figures().records, 30);
    log.tail.release(first.from);
    assert_eq!(log.tail.figures().records, 30, "what was released stays so");
    let rest = log.tail.read(first.to, 1000).unwrap();
    log.tail.release(rest.to);
    assert_eq!((log.tail.figures().records, log.tail.figures().bytes), (0, 0));
}

#[test]
fn a_log_thread_that_died_as_it_looked_through_notes_has_them_once() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    assert!((0..3).all(|id| log.slates[0].note(Kind::End, &record(id))));
    let writer = &mut log.writer;
    writer.drained.copy(&log.slates[0], writer.streams[&0]);
    assert!(!writer.drained.copied().is_empty());
    assert!(log.slates[0].note(Kind::End, &record(3)));
    log.writer.round().unwrap();
    assert_eq!(log.shipped(Position::default()), [0, 1, 2, 3]);
}
