//! What the log thread takes out of the slates: one stream's notes at a time, and then what waits for the disk.
//!
//! One stream's notes are looked through first and entered together with how far the stream is. A thread that dies in
//! between must leave the books as if it had not begun, because the next one goes on with them.
//!
//! A start whose end was copied with it is passed over: the slate has both until the end is durable, and whoever reads the
//! log from then on would find that it has ended. It must never be passed over for an end that has no room in the log.
//!
//! Both lie in one piece of memory, so that a note is copied once, and it is kept from round to round while there is
//! anything to do: new memory costs more than the copying.

use std::ops::Range;

use foldhash::HashMap;
use uuid::Uuid;

use crate::{
    encoding,
    frame::{self, Frame},
    slate::Slate,
};

/// Most that is kept for the next round, in bytes: a busy processor's notes of 200 ms.
const MOST_KEPT: usize = 4 << 20;

/// Start notes without an end, as they stand in the log.
pub(crate) type Open = HashMap<Uuid, Box<[u8]>>;

/// What was taken from the slates and is not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// What was entered; behind that, what is looked through and counts for nothing yet.
    words: Vec<[u8; 8]>,
    /// Words that were entered.
    entered: usize,
    pub(crate) ends: u64,
}

impl Drained {
    /// What was entered.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.words.split_at(self.entered).0.as_flattened()
    }

    /// What a stream has, as it was copied last.
    pub(crate) fn copied(&self) -> &[u8] {
        self.words.split_at(self.entered).1.as_flattened()
    }

    /// Copies what was noted on a slate from `position` on, to be looked through, and returns where that ends.
    pub(crate) fn copy(&mut self, slate: &Slate, position: u64) -> u64 {
        self.words.truncate(self.entered);
        slate.copy_from(position, &mut self.words)
    }

    /// Enters these notes of what was copied, which are in order. They begin and end at words.
    fn enter(&mut self, notes: &[Range<usize>]) {
        let mut end = self.entered;
        // Those that touch go together.
        for part in notes.chunk_by(|one, next| one.end == next.start) {
            let [first, ..] = part else { continue };
            let length: usize = part.iter().map(Range::len).sum();
            let (from, words) = (self.entered + first.start / 8, length / 8);
            // What stands where it should need not be moved.
            if from != end {
                self.words.copy_within(from..from + words, end);
            }
            end += words;
        }
        self.words.truncate(end);
        self.entered = end;
    }

    /// As if that had been copied.
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { words: bytes.as_chunks().0.to_vec(), ..Self::default() }
    }

    /// Enters a frame of the log's own.
    pub(crate) fn enter_end(&mut self, frame: &[u8]) {
        self.words.truncate(self.entered);
        self.words.extend_from_slice(frame.as_chunks().0);
        self.entered = self.words.len();
        self.ends += 1;
    }

    /// All of it is on the disk. Returns how many ends that are.
    pub(crate) fn clear(&mut self) -> u64 {
        self.words.clear();
        self.words.shrink_to(MOST_KEPT / 8);
        self.entered = 0;
        std::mem::take(&mut self.ends)
    }
}

/// Bytes for which the log has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) all: u64,
    /// So many of them only for the ends of what is in the log already.
    pub(crate) reserve: u64,
}

/// One stream's notes.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// What is taken of the bytes that were copied, in order. Empty where a start is passed over.
    notes: Vec<Range<usize>>,
    /// Bytes of all of them.
    length: u64,
    ends: u64,
    /// Which requests began, with the number of the note, and which ended. Not those that did both.
    changed: HashMap<Uuid, Option<usize>>,
    /// End notes for which there was no room.
    pub(crate) lost: u64,
    pub(crate) damage: u64,
}

impl Taken {
    /// Takes nothing yet.
    pub(crate) fn clear(&mut self) {
        self.notes.clear();
        self.changed.clear();
        (self.length, self.ends, self.lost, self.damage) = (0, 0, 0, 0);
    }

    /// Takes one note that begins there, if there is room.
    pub(crate) fn take(&mut self, (at, frame): (usize, &Frame<'_>), open: &Open, room: Room) {
        let left = room.all.saturating_sub(self.length);
        let length = frame.bytes.len() as u64;
        let id = encoding::id_of(frame.body());
        let is_known = || frame.kind == frame::END && id.is_some_and(|id| self.is_open(id, open));
        if left < length || (left < length + room.reserve && !is_known()) {
            self.lost += u64::from(frame.kind == frame::END);
            return;
        }
        let number = self.notes.len();
        self.notes.push(at..at + frame.bytes.len());
        self.length += length;
        match (frame.kind, id) {
            (frame::START, Some(id)) => drop(self.changed.insert(id, Some(number))),
            (frame::END, Some(id)) => {
                self.ends += 1;
                let began_here = self.changed.remove(&id).flatten();
                if let Some(start) = began_here {
                    self.pass_over(start);
                }
                if began_here.is_none() || open.contains_key(&id) {
                    self.changed.insert(id, None);
                }
            }
            _ => {}
        }
    }

    /// The log needs no note of this number: it gets one that says more.
    fn pass_over(&mut self, number: usize) {
        if let Some(note) = self.notes.get_mut(number) {
            self.length -= note.len() as u64;
            note.end = note.start;
        }
    }

    fn is_open(&self, id: Uuid, open: &Open) -> bool {
        self.changed.get(&id).map_or_else(|| open.contains_key(&id), Option::is_some)
    }

    /// Enters all of it.
    pub(crate) fn enter(&mut self, drained: &mut Drained, open: &mut Open) {
        for (id, begun) in self.changed.drain() {
            let note = begun.and_then(|number| self.notes.get(number).cloned());
            match note.and_then(|note| drained.copied().get(note)) {
                Some(start) => drop(open.insert(id, start.into())),
                None => drop(open.remove(&id)),
            }
        }
        drained.enter(&self.notes);
        drained.ends += self.ends;
    }
}
