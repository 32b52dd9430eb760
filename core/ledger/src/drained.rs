//! What the log thread takes out of the slates: one stream's notes at a time, and then what waits for the disk.
//!
//! One stream's notes are looked through first and entered together with how far the stream is. A thread that dies in
//! between must leave the books as if it had not begun, because the next one goes on with them.

use std::{collections::HashMap, ops::Range};

use uuid::Uuid;

use crate::{
    encoding,
    frame::{self, Frame},
};

/// Start notes without an end, as they stand in the log.
pub(crate) type Open = HashMap<Uuid, Box<[u8]>>;

/// What was taken from the slates and is not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: u64,
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
    bytes: Vec<u8>,
    ends: u64,
    /// Which requests began, with the place of the note in `bytes`, and which ended.
    changed: HashMap<Uuid, Option<Range<usize>>>,
    /// End notes for which there was no room.
    pub(crate) lost: u64,
    pub(crate) damage: u64,
}

impl Taken {
    /// Takes one note, if there is room.
    pub(crate) fn take(&mut self, frame: &Frame<'_>, open: &Open, room: Room) {
        let from = self.bytes.len();
        let left = room.all.saturating_sub(from as u64);
        let length = frame.bytes.len() as u64;
        let id = encoding::id_of(frame.body());
        let is_known = frame.kind == frame::END && id.is_some_and(|id| self.is_open(id, open));
        let kept = if is_known { 0 } else { room.reserve };
        if left < length + kept {
            self.lost += u64::from(frame.kind == frame::END);
            return;
        }
        self.bytes.extend_from_slice(frame.bytes);
        match (frame.kind, id) {
            (frame::START, Some(id)) => drop(self.changed.insert(id, Some(from..self.bytes.len()))),
            (frame::END, Some(id)) => {
                self.ends += 1;
                self.changed.insert(id, None);
            }
            _ => {}
        }
    }

    fn is_open(&self, id: Uuid, open: &Open) -> bool {
        self.changed.get(&id).map_or_else(|| open.contains_key(&id), Option::is_some)
    }

    /// Enters all of it.
    pub(crate) fn enter(self, drained: &mut Drained, open: &mut Open) {
        drained.bytes.extend_from_slice(&self.bytes);
        drained.ends += self.ends;
        for (id, begun) in self.changed {
            match begun.and_then(|note| self.bytes.get(note)) {
                Some(start) => drop(open.insert(id, start.into())),
                None => drop(open.remove(&id)),
            }
        }
    }
}
