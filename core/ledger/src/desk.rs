//! What the log thread, the shards and the sidecar share: how far each has got, and the bells between them.
//!
//! The log thread says what is durable, the sidecar what it has taken. Neither ever waits for the other: the lock is held
//! for a few instructions. Nothing here is in a file; recovery finds it all out again.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use obleth_link::Doorbell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{folder::Folder, frame::Salt, position::Position};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Locked as long as anybody has anything of this log.
    pub(crate) folder: Folder,
    pub(crate) salt: Salt,
    /// Wakes the log thread: there is a note, or something was released.
    pub(crate) notes: Doorbell,
    /// Wakes the sidecar: something more is durable.
    pub(crate) durable: Doorbell,
    /// End notes for which the log had no room.
    pub(crate) lost: AtomicU64,
    /// Damaged stretches that were passed over.
    pub(crate) corrupt: AtomicU64,
    stopping: AtomicBool,
    stop: Doorbell,
    books: Mutex<Books>,
}

/// How far everybody is.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Every segment that there is, by number: how much of it is durable.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// End notes that the log had, ever.
    pub(crate) ends: u64,
    /// What came before is not needed any more.
    pub(crate) released: Position,
    /// End notes before that.
    pub(crate) released_ends: u64,
    /// What the tail has read and not released: how many end notes came before these places.
    pub(crate) read: BTreeMap<Position, u64>,
    /// Damage between these places was counted when the log was opened.
    pub(crate) counted: (Position, Position),
    /// So was that before this place, when it was read.
    pub(crate) seen: Position,
}

impl Desk {
    pub(crate) fn new(folder: Folder) -> io::Result<Self> {
        Ok(Self {
            salt: Salt::of(folder.log_id),
            folder,
            notes: Doorbell::new()?,
            durable: Doorbell::new()?,
            lost: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stop: Doorbell::new()?,
            books: Mutex::default(),
        })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        // Whoever panicked left a state in which every number is one that was true.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.ring();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The tail has read what lies between two places: so many end notes, and damage there.
    pub(crate) fn note_read(&self, (start, end): (Position, Position), ends: u64, damage: &[Position]) {
        let mut books = self.books();
        if let Some(before) = books.ends_before(start) {
            books.read.insert(end, before + ends);
        }
        let (from, to) = books.counted;
        let is_news = |place: &&Position| **place >= books.seen && !(from..to).contains(*place);
        let news = damage.iter().filter(is_news).count();
        books.seen = books.seen.max(end);
        self.corrupt.fetch_add(news as u64, Ordering::Relaxed);
    }

    /// The log thread sleeps for so long, or until it is to stop.
    pub(crate) fn nap(&self, time: Duration) {
        self.stop.going_to_sleep();
        if !self.is_stopping() {
            wait(&[&self.stop], Some(time));
        }
        self.stop.awake();
    }

    /// The log thread sleeps until there is something to do, or it is to stop, or so long at most.
    pub(crate) fn sleep(&self, most: Option<Duration>, is_idle: impl FnOnce() -> bool) {
        self.notes.going_to_sleep();
        self.stop.going_to_sleep();
        if is_idle() && !self.is_stopping() {
            wait(&[&self.notes, &self.stop], most);
        }
        self.notes.awake();
        self.stop.awake();
    }
}

impl Books {
    /// Everything before it is durable.
    pub(crate) fn durable(&self) -> Position {
        let last = self.segments.last_key_value();
        last.map_or(Position::default(), |(segment, length)| Position { segment: *segment, offset: *length })
    }

    /// Bytes that segments hold.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Bytes that are not released yet.
    pub(crate) fn unreleased(&self) -> u64 {
        let kept = self.segments.range(self.released.segment..).map(|(segment, length)| {
            let gone = if *segment == self.released.segment { self.released.offset } else { 0 };
            length.saturating_sub(gone)
        });
        kept.sum()
    }

    /// End notes before a place, if that is known.
    pub(crate) fn ends_before(&self, place: Position) -> Option<u64> {
        if place == self.released { Some(self.released_ends) } else { self.read.get(&place).copied() }
    }

    /// What is before this place is not needed any more, and there are so many end notes before it.
    pub(crate) fn release(&mut self, upto: Position, ends: Option<u64>) {
        if upto <= self.released {
            return;
        }
        self.released_ends = ends.unwrap_or(self.released_ends).max(self.released_ends);
        if upto >= self.durable() {
            // Those that were damaged since they were counted were never read.
            self.released_ends = self.ends;
        }
        self.read = self.read.split_off(&upto);
        let next = self.segments.range(upto.segment + 1..).next().map(|(number, _)| *number);
        let is_at_its_end = self.segments.get(&upto.segment).is_none_or(|length| upto.offset >= *length);
        // The end of one segment is the beginning of the next one.
        self.released = match next {
            Some(segment) if is_at_its_end => Position { segment, offset: 0 },
            _ => upto,
        };
    }

    /// The oldest segment, if it may go. The last one never does.
    pub(crate) fn disposable(&self) -> Option<u64> {
        let oldest = *self.segments.first_key_value()?.0;
        (self.segments.len() > 1 && oldest < self.released.segment).then_some(oldest)
    }
}

fn wait(bells: &[&Doorbell], time: Option<Duration>) {
    let limit = time
        .map(|time| Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() });
    let fds: Vec<_> = bells.iter().map(|bell| bell.fd()).collect();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // An interrupted wait is one that ended early, and every caller looks around after it.
    let _ = poll(&mut fds, limit.as_ref());
}
