//! Files that were cut or damaged, at every byte.

use std::{fs, path::Path};

use super::{FIRST_SEGMENT, begun, left, light_dir, opened, record};
use crate::{
    Kind, Position, Record, Recovered,
    frame::{END, START, Salt, Step, Walk},
    segment::HEADER,
};

const SLATE: &str = "stream-0000.slate";

/// A start with its end, an end alone, two that overlap, and a start alone. In the log they are all there if each has a
/// round of its own.
fn noted(dir: &Path, is_in_log: bool) {
    let mut log = opened(dir);
    for (kind, note) in notes() {
        assert!(log.slates[0].note(kind, &note));
        assert!(!is_in_log || log.writer.round().unwrap());
    }
}

fn notes() -> Vec<(Kind, Record)> {
    let start = |number| (Kind::Start, begun(number));
    let end = |number| (Kind::End, record(number));
    vec![start(1), end(1), end(2), start(3), start(4), end(3), end(4), start(5), end(6)]
}

/// The rows that these notes make, by id.
fn rows(notes: &[(Kind, Record)]) -> Vec<Record> {
    let is_end = |(kind, _): &&(Kind, Record)| *kind == Kind::End;
    let mut rows: Vec<_> = notes.iter().filter(is_end).map(|(_, record)| record.clone()).collect();
    let has_row = |id, rows: &[Record]| rows.iter().any(|row| row.id == id);
    let lost: Vec<_> = notes.iter().filter(|note| !is_end(note) && !has_row(note.1.id, &rows)).collect();
    rows.extend(lost.into_iter().map(|(_, record)| record.clone()));
    rows.sort_by_key(|row| row.id);
    rows
}

/// Opens it twice: the second start must find what the first one made of it, and nothing to do.
fn recovered(dir: &Path) -> (Recovered, Vec<Record>) {
    let log = opened(dir);
    let recovered = log.recovered;
    let mut rows = log.tail.read(Position::default(), 1000).unwrap().records;
    drop(log);
    let again = opened(dir);
    assert_eq!((again.recovered.torn, again.recovered.lost, again.recovered.drained), (0, 0, 0));
    assert_eq!(again.tail.read(Position::default(), 1000).unwrap().records, rows);
    assert_eq!(again.tail.figures().records, rows.len() as u64);
    rows.sort_by_key(|row| row.id);
    (recovered, rows)
}

/// Where each frame of the segment begins and ends, and whether it is a note.
fn frames(bytes: &[u8], salt: Salt) -> Vec<(usize, usize, bool)> {
    let walk = Walk::of_segment(&bytes[HEADER..], salt).map(|step| match step {
        Step::Frame(at, frame) => {
            let at = at + HEADER;
            (at, at + frame.bytes.len(), [START, END].contains(&frame.kind))
        }
        Step::Damage => unreachable!("nothing is damaged yet"),
    });
    walk.collect()
}

/// A log of which only the segment is left, its bytes, and its frames.
fn segment() -> (tempfile::TempDir, Vec<u8>, Vec<(usize, usize, bool)>) {
    let dir = light_dir();
    noted(dir.path(), true);
    let log_id = fs::read_to_string(dir.path().join("log.meta")).unwrap();
    let log_id = log_id.lines().last().unwrap().strip_prefix("log ").unwrap().parse().unwrap();
    (0..2).for_each(|stream| fs::remove_file(dir.path().join(format!("stream-000{stream}.slate"))).unwrap());
    let bytes = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
    let frames = frames(&bytes, Salt::of(log_id));
    assert_eq!(frames.len(), 2 + notes().len());
    let length = frames.last().unwrap().1;
    (dir, bytes[..length].to_vec(), frames)
}

/// The notes whose frames `is_whole`.
fn whole(frames: &[(usize, usize, bool)], is_whole: impl Fn(usize, usize) -> bool) -> Vec<(Kind, Record)> {
    let frames = frames.iter().filter(|frame| frame.2);
    let notes = frames.zip(notes()).filter(|(frame, _)| is_whole(frame.0, frame.1));
    notes.map(|(_, note)| note).collect()
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_note_before_it() {
    let (dir, bytes, frames) = segment();
    for cut in 0..bytes.len() {
        let dir = left(dir.path());
        // As the file system shows it after a power cut: the length is there, the rest is zeros.
        let mut torn = bytes[..cut].to_vec();
        torn.resize(bytes.len() + 4096, 0);
        fs::write(dir.path().join(FIRST_SEGMENT), torn).unwrap();
        let (found, there) = recovered(dir.path());
        // Zeros at a frame's end are not missed.
        let is_whole = |_, to: usize| to <= cut || bytes[cut.min(to)..to].iter().all(|byte| *byte == 0);
        assert_eq!(there, rows(&whole(&frames, is_whole)), "cut at {cut}");
        let is_something = |from: usize, to: usize| bytes[from..to].iter().any(|byte| *byte != 0);
        let is_torn =
            |from, to| (from..to).contains(&cut) && is_something(from, cut) && is_something(cut, to);
        let torn = frames.iter().filter(|(from, to, _)| is_torn(*from, *to)).count() as u64;
        assert_eq!((found.torn, found.corrupt), (torn, 0), "cut at {cut}");
    }
}

#[test]
fn a_log_damaged_at_any_byte_loses_one_note_at_most_and_says_so() {
    let (dir, bytes, frames) = segment();
    for at in 0..bytes.len() {
        let dir = left(dir.path());
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x5A;
        fs::write(dir.path().join(FIRST_SEGMENT), damaged).unwrap();
        let (found, there) = recovered(dir.path());
        let hit = |from, to| (from..to).contains(&at);
        assert_eq!(there, rows(&whole(&frames, |from, to| !hit(from, to))), "damaged at {at}");
        let is_last = frames.last().is_some_and(|(from, to, _)| hit(*from, *to));
        let counts = (found.torn, found.corrupt);
        assert_eq!(counts, (u64::from(is_last), u64::from(at >= HEADER && !is_last)), "damaged at {at}");
    }
}

#[test]
fn a_slate_damaged_at_any_byte_loses_one_note_at_most() {
    let dir = light_dir();
    noted(dir.path(), false);
    let (_, _, frames) = segment();
    let frames: Vec<_> = frames.into_iter().filter(|frame| frame.2).collect();
    let first = frames[0].0;
    let slate = fs::read(dir.path().join(SLATE)).unwrap();
    for at in 0..frames.last().unwrap().1 - first {
        let dir = left(dir.path());
        let mut damaged = slate.clone();
        damaged[at] ^= 0x5A;
        fs::write(dir.path().join(SLATE), damaged).unwrap();
        let (found, there) = recovered(dir.path());
        let hit = |from, to| (from..to).contains(&(at + first));
        assert_eq!(there, rows(&whole(&frames, |from, to| !hit(from, to))), "damaged at {at}");
        // The last frame may just as well never have been finished.
        let is_last = frames.last().is_some_and(|(from, to, _)| hit(*from, *to));
        assert_eq!(found.corrupt, u64::from(!is_last), "damaged at {at}");
    }
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_passed_over_and_counted_once() {
    let dir = light_dir();
    noted(dir.path(), true);
    let log = opened(dir.path());
    let path = dir.path().join(FIRST_SEGMENT);
    let (_, _, frames) = segment();
    let mut bytes = fs::read(&path).unwrap();
    let end_of_two = frames.iter().filter(|frame| frame.2).nth(2).unwrap();
    bytes[end_of_two.0 + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let batch = log.tail.read(Position::default(), 1000).unwrap();
        let ids: Vec<_> = batch.records.iter().map(|record| record.id.as_u128()).collect();
        assert_eq!((ids, batch.corrupt), (vec![1, 3, 4, 6, 5], 1));
    }
}

#[test]
fn a_damaged_stretch_that_is_longer_than_what_is_read_at_a_time_counts_once() {
    let (dir, bytes, frames) = segment();
    let between = frames[4].1;
    let stretch = vec![0xAB; 600 << 10];
    fs::write(dir.path().join(FIRST_SEGMENT), [&bytes[..between], &stretch, &bytes[between..]].concat())
        .unwrap();
    let log = opened(dir.path());
    assert_eq!(log.recovered.corrupt, 1);
    let batch = log.tail.read(Position::default(), 1000).unwrap();
    assert_eq!((batch.records.len(), batch.corrupt), (rows(&notes()).len(), 1));
}
