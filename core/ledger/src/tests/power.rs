//! Power cuts: the log is as it was synced, or a little further, and the slates are as old as the kernel pleases.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::{collection, prelude::*};

use super::{FIRST_SEGMENT, begun, left, light_dir, opened, record};
use crate::{Kind, Opened, Position, Record};

/// What happens before the power goes.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A request begins on that shard.
    Begin(usize),
    /// The oldest one that is under way there ends; if there is none, one is refused.
    End(usize),
    /// The log thread does a round.
    Sync,
    /// The kernel writes a slate to the disk.
    WriteBack(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let shard = 0..2_usize;
    let act = prop_oneof![
        4 => shard.clone().prop_map(Act::Begin),
        5 => shard.clone().prop_map(Act::End),
        2 => Just(Act::Sync),
        1 => shard.prop_map(Act::WriteBack),
    ];
    collection::vec(act, 1..60)
}

/// One start of the process, and what is on the disk of it.
struct Life<'d> {
    log: Opened,
    dir: &'d Path,
    next: u128,
    under_way: [Vec<u128>; 2],
    /// Starts and ends that the log has synced.
    synced: Vec<(Kind, u128)>,
    noted: Vec<(Kind, u128)>,
    /// Slates as the kernel wrote them last.
    written_back: [Vec<u8>; 2],
}

fn slate(shard: usize) -> String {
    format!("stream-{shard:04}.slate")
}

impl<'d> Life<'d> {
    fn begin(dir: &'d Path, next: u128) -> Self {
        let log = opened(dir);
        let written_back = [0, 1].map(|shard| fs::read(dir.join(slate(shard))).unwrap());
        let (under_way, synced, noted) = Default::default();
        Self { log, dir, next, under_way, synced, noted, written_back }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Begin(shard) => {
                self.next += 1;
                assert!(self.log.slates[shard].note(Kind::Start, &begun(self.next)));
                self.under_way[shard].push(self.next);
                self.noted.push((Kind::Start, self.next));
            }
            Act::End(shard) => {
                let id = self.under_way[shard].pop().unwrap_or_else(|| {
                    self.next += 1;
                    self.next
                });
                assert!(self.log.slates[shard].note(Kind::End, &record(id)));
                self.noted.push((Kind::End, id));
            }
            Act::Sync => {
                self.log.writer.round().unwrap();
                self.synced.clone_from(&self.noted);
            }
            Act::WriteBack(shard) => {
                self.written_back[shard] = fs::read(self.dir.join(slate(shard))).unwrap()
            }
        }
    }
}

/// Every row, by id; panics if there are two of one.
fn rows(log: &Opened) -> BTreeMap<u128, Record> {
    let mut rows = BTreeMap::new();
    for record in log.tail.read(Position::default(), usize::MAX).unwrap().records {
        let before = rows.insert(record.id.as_u128(), record);
        assert_eq!(before, None, "nothing is there twice");
    }
    rows
}

/// Every one of these notes has made a row: an end its own, a start that or the one of its end.
fn has_rows(rows: &BTreeMap<u128, Record>, notes: &[(Kind, u128)]) {
    for (kind, id) in notes {
        let row = rows.get(id);
        match kind {
            Kind::End => assert_eq!(row, Some(&record(*id))),
            Kind::Start => assert!(row == Some(&record(*id)) || row == Some(&begun(*id))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_power_cut_costs_only_what_was_not_synced_and_nothing_is_there_twice(
        acts in acts(), later in acts(),
        old_slates in any::<[bool; 2]>(), torn in option_of_a_part(), seed in any::<u8>(),
    ) {
        let dir = light_dir();
        let mut life = Life::begin(dir.path(), 0);
        acts.iter().for_each(|act| life.act(*act));
        let synced = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
        let length = life.log.tail.durable().offset as usize;
        let disk = left(dir.path());
        // Of a write that was not synced any part may be there.
        life.log.writer.round().unwrap();
        let unsynced = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
        let more = life.log.tail.durable().offset as usize;
        let mut segment = synced;
        if let Some(part) = torn {
            let cut = length + (more - length) * usize::from(part) / 255;
            segment[length..cut].copy_from_slice(&unsynced[length..cut]);
            if cut > length {
                segment[length + (cut - length) * usize::from(seed) / 256] = 0;
            }
        }
        fs::write(disk.path().join(FIRST_SEGMENT), segment).unwrap();
        for (shard, written_back) in life.written_back.iter().enumerate().filter(|(shard, _)| old_slates[*shard]) {
            fs::write(disk.path().join(slate(shard)), written_back).unwrap();
        }

        let mut second = Life::begin(disk.path(), life.next);
        let first_rows = rows(&second.log);
        has_rows(&first_rows, &life.synced);
        let is_noted = |id: &u128| life.noted.iter().any(|(_, noted)| noted == id);
        prop_assert!(first_rows.keys().all(is_noted));
        if old_slates == [false; 2] && torn.is_none() {
            has_rows(&first_rows, &life.noted);
        }

        // And then the process dies, without anything being lost by that.
        later.iter().for_each(|act| second.act(*act));
        let noted = second.noted.clone();
        drop(second);
        let third = opened(disk.path());
        let all_rows = rows(&third);
        has_rows(&all_rows, &noted);
        prop_assert!(first_rows.iter().all(|(id, row)| all_rows.get(id) == Some(row)));
        let is_known = |id: &u128| first_rows.contains_key(id) || noted.iter().any(|(_, noted)| noted == id);
        prop_assert!(all_rows.keys().all(is_known));
        prop_assert_eq!(third.tail.figures().records, all_rows.len() as u64);
    }
}

fn option_of_a_part() -> impl Strategy<Value = Option<u8>> {
    proptest::option::of(any::<u8>())
}
