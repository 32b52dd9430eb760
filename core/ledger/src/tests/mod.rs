//! Tests of the whole log: notes in at one end, records out at the other, with everything in between that can go wrong.
//!
//! Most of them turn the log thread's rounds by hand, so that nothing depends on time.

mod damage;
mod format;
mod full;
mod killed;
mod power;
mod removal;
mod restarts;
mod shipping;
mod telling;

#[path = "../../tests/sample/mod.rs"]
mod sample;

use std::{fs, path::Path};

use sample::{begun, light_dir, options, record};
use tempfile::TempDir;

use crate::{Opened, Position, open};

/// Copies what a dead process left, as it is at this moment.
fn left(from: &Path) -> TempDir {
    let to = light_dir();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

const FIRST_SEGMENT: &str = "00000000000000000001.log";

fn opened(dir: &Path) -> Opened {
    open(options(dir)).unwrap()
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
