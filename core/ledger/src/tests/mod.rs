//! Tests of the whole log: notes in at one end, records out at the other, with everything in between that can go wrong.
//!
//! Most of them turn the log thread's rounds by hand, so that nothing depends on time.

mod damage;
mod format;
mod full;
mod killed;
mod opening;
mod passed_over;
mod power;
mod removal;
mod restarts;
mod shipping;
mod telling;

#[path = "../../tests/sample/mod.rs"]
mod sample;

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use sample::{begun, light_dir, options, record};
use tempfile::TempDir;

use crate::{Kind, Opened, Position, open};

/// Copies what a dead process left, as it is at this moment.
fn left(from: &Path) -> TempDir {
    let to = light_dir();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// That a process which was killed while it wrote these bytes of a segment, at any of them, leaves to each of the next
/// two starts one row for each request: its id and its status.
#[track_caller]
fn killed_in(
    before: &Path,
    (segment, written): (&str, &[u8]),
    cuts: RangeInclusive<usize>,
    rows: &[(u128, u16)],
) {
    for cut in cuts {
        let dir = left(before);
        fs::write(dir.path().join(segment), &written[..cut]).unwrap();
        for _ in 0..2 {
            let log = opened(dir.path());
            let there = log.tail.read(Position::default(), 1000).unwrap().records;
            let mut there: Vec<_> = there.iter().map(|row| (row.id.as_u128(), row.status)).collect();
            there.sort_unstable();
            assert_eq!(there, rows, "killed at {cut}");
            assert_eq!(log.tail.figures().records, rows.len() as u64, "killed at {cut}");
        }
    }
}

const FIRST_SEGMENT: &str = "00000000000000000001.log";

fn opened(dir: &Path) -> Opened {
    open(options(dir)).unwrap()
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.log"))
}

/// Notes until that segment is begun.
fn roll_to(log: &mut Opened, number: u64) {
    for id in u128::from(number) * 1_000_000.. {
        if log.tail.durable().segment == number {
            return;
        }
        assert!(log.slates[0].note(Kind::End, &record(id)));
        log.writer.round().unwrap();
    }
}

impl Opened {
    /// Ids of everything that was not released, in order.
    fn shipped(&self, from: Position) -> Vec<u128> {
        let (mut ids, mut from) = (Vec::new(), from);
        loop {
            let batch = self.tail.read(from, 7).unwrap();
            ids.extend(batch.records.iter().map(|record| record.id.as_u128()));
            if batch.to == from {
                return ids;
            }
            from = batch.to;
        }
    }
}
