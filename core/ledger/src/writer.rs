//! The log thread: copies notes from the slates into the log, makes them durable, and says so.
//!
//! What it has drained it keeps until it is on the disk, and only then are the slates told. So a disk that is full, slow or
//! broken costs nothing but room, first in the slates and then for notes, which is counted. It must never stop trying, and
//! never say that something is durable before the kernel did.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    desk::Desk,
    drained::{Drained, Open, Room, Taken},
    frame::{self, Place, Step, Walk},
    position::Position,
    segment::{self, Header, Segment, Streams},
    slate::Slate,
};

/// Bytes of notes after which a new segment begins: what is released goes in pieces of this size.
const SEGMENT_BYTES: u64 = 16 << 20;
/// A log has room for so many segments at least, so that a full one gets room again piece by piece.
const LEAST_SEGMENTS: u64 = 8;
/// The part of a log, one in so many, that is left for the ends of what is in it already.
const RESERVE: u64 = 64;
/// Time without a note after which the slates' memory is let go. Whoever notes something then pays for getting it back.
const QUIET: Duration = Duration::from_secs(2);
/// Pause between tries while the disk refuses.
const RETRY: Duration = Duration::from_secs(1);

/// How large the log may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    most: u64,
    pub(crate) segment: u64,
    pub(crate) reserve: u64,
    sync_every: Duration,
}

impl Limits {
    pub(crate) fn new(max_bytes: u64, sync_every: Duration) -> Self {
        let segment = (max_bytes / LEAST_SEGMENTS).min(SEGMENT_BYTES);
        Self { most: max_bytes, segment, reserve: max_bytes / RESERVE, sync_every }
    }
}

/// The log thread's own. Give it a thread and call [`LogWriter::run`].
#[derive(Debug)]
pub struct LogWriter {
    pub(crate) desk: Arc<Desk>,
    pub(crate) slates: Vec<Slate>,
    /// None until the first one could be begun.
    pub(crate) segment: Option<Segment>,
    /// The number of the next one.
    pub(crate) next: u64,
    /// How long this one is when the next one begins.
    pub(crate) roll_at: u64,
    /// How far each stream is in what is drained, streams of earlier starts included.
    pub(crate) streams: Streams,
    pub(crate) open: Open,
    pub(crate) limits: Limits,
    pub(crate) drained: Drained,
    /// What one stream's notes are looked through with.
    pub(crate) taken: Taken,
    pub(crate) inherited: Inherited,
    pub(crate) state: State,
}

/// What an earlier process left to be done.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Whether what it had noted and not written is drained. There is room for that, whatever is in the log.
    pub(crate) is_drained: bool,
    /// What it had begun: nobody will end that. Only behind its notes, and in a write of its own, since of one that the
    /// power ends any part may be there: never such an end without its start.
    pub(crate) unended: Vec<Uuid>,
}

/// What has been said in the process's log, so that only changes are said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    refused: bool,
    full: bool,
    overlong: bool,
    /// A segment that may go does not.
    stuck: bool,
}

/// Ends [`LogWriter::run`], from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Desk>);

impl Stop {
    /// Lets the log thread write what there is, and end.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl LogWriter {
    /// What ends it.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        Stop(Arc::clone(&self.desk))
    }

    /// Writes until [`Stop::stop`], and once more after it. Sleeps while nobody notes anything.
    pub fn run(&mut self) {
        loop {
            let is_last = self.desk.is_stopping();
            let round = self.round();
            self.tell(round.as_ref().err());
            if is_last {
                return;
            }
            match round {
                Ok(true) => self.desk.nap(self.limits.sync_every),
                Ok(false) => self.rest(),
                Err(_) => self.desk.nap(RETRY),
            }
        }
    }

    /// Sleeps until there is something to do, without the memory for that.
    fn rest(&mut self) {
        debug_assert!(self.drained.bytes().is_empty(), "the round before has nothing left");
        (self.drained, self.taken) = Default::default();
        if self.slates.iter().any(Slate::has_much) {
            self.desk.sleep(Some(QUIET), || self.is_idle());
            if !self.is_idle() {
                return;
            }
            self.slates.iter().for_each(Slate::let_go);
        }
        self.desk.sleep(None, || self.is_idle());
    }

    fn is_idle(&self) -> bool {
        let drained = |slate: &Slate| self.streams.get(&slate.stream()) == Some(&slate.head());
        let has_begun = self.segment.is_some() && self.inherited.unended.is_empty();
        let is_tidy = self.state.stuck || self.desk.books().disposable().is_none();
        has_begun && is_tidy && self.slates.iter().all(drained)
    }

    /// Brings into the log what an earlier process left.
    ///
    /// # Errors
    /// The disk's. The slates keep what they have, and later rounds go on with it.
    pub(crate) fn recover(&mut self) -> io::Result<()> {
        self.round()?;
        while !self.inherited.unended.is_empty() {
            self.round()?;
        }
        Ok(())
    }

    /// One turn of [`LogWriter::run`]: makes durable what was noted, and returns whether anything was noted.
    ///
    /// # Errors
    /// The disk's. Nothing is lost by it: the next turn tries again.
    pub fn round(&mut self) -> io::Result<bool> {
        self.remove_released();
        let mut is_any = true;
        if self.drained.bytes().is_empty() {
            self.roll_if_due()?;
            is_any = match self.inherited.unended.is_empty() || !self.inherited.is_drained {
                true => self.drain(),
                false => self.end_inherited(),
            };
        }
        match &mut self.segment {
            Some(segment) if !self.drained.bytes().is_empty() => {
                segment.append(self.drained.bytes())?;
                self.publish();
            }
            // What was noted may have been dropped, all of it.
            _ => self.make_room(),
        }
        Ok(is_any)
    }

    /// Begins a new segment when this one has its size; in a full log only where that lets this one go.
    fn roll_if_due(&mut self) -> io::Result<()> {
        let Some(segment) = &self.segment else { return self.begin_segment() };
        let length = segment.length;
        let here = Position { segment: segment.number, offset: length };
        let (used, released) = {
            let books = self.desk.books();
            (books.bytes(), books.released)
        };
        if length < self.roll_at || (self.is_full(used) && released < here) {
            return Ok(());
        }
        let begun = self.begin_segment();
        match begun {
            Ok(()) => self.put_spare_aside(),
            // The one that is there takes more.
            Err(_) => self.roll_at = length + self.limits.segment / LEAST_SEGMENTS,
        }
        self.tell_overlong(begun.err());
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.next;
        let header = Header::of(number, self.desk.folder.log_id, self.desk.books().ends);
        let open = self.open.values().map(|start| &start[..]);
        let beginning = segment::beginning(header, &self.streams, open, &self.desk.salt);
        let next = Segment::begin(&self.desk.folder, number, &beginning, self.limits.segment)?;
        let length = next.length;
        let before = self.segment.replace(next);
        self.next += 1;
        self.roll_at = self.limits.segment;
        if let Some(Err(error)) = before.as_ref().map(Segment::end) {
            warn!(target: "obleth_ledger", segment = number, %error, "the segment before this one keeps room that it does not need");
        }
        let here = before.map(|before| Position { segment: before.number, offset: before.length });
        let mut books = self.desk.books();
        books.segments.insert(number, length);
        if here.is_some_and(|here| books.released >= here) {
            books.released = Position { segment: number, offset: 0 };
        }
        drop(books);
        self.remove_released();
        Ok(())
    }

    /// Makes room for the next segment while there is some. Without it, that one will do as well as it can.
    pub(crate) fn put_spare_aside(&self) {
        let _ = segment::put_spare_aside(&self.desk.folder, self.limits.segment);
    }

    /// What an earlier process began gets ends: its start notes say what its rows are.
    fn end_inherited(&mut self) -> bool {
        let mut ends = Vec::new();
        for start in self.inherited.unended.iter().filter_map(|id| self.open.get(id)) {
            ends.push(frame::own(frame::END, start.get(frame::HEAD..).unwrap_or_default(), &self.desk.salt));
        }
        for id in std::mem::take(&mut self.inherited.unended) {
            self.open.remove(&id);
        }
        ends.iter().for_each(|end| self.drained.enter_end(end));
        true
    }

    fn is_full(&self, used: u64) -> bool {
        used + frame::MAX_NOTE as u64 + self.limits.reserve > self.limits.most
    }

    /// Takes what was noted, as far as there is room in the log, and returns whether anything was.
    fn drain(&mut self) -> bool {
        let used = self.desk.books().bytes();
        let mut is_any = false;
        for slate in &self.slates {
            let stream = slate.stream();
            let position = self.streams.get(&stream).copied().unwrap_or_default();
            let head = self.drained.copy(slate, position);
            let left = self.limits.most.saturating_sub(used + self.drained.bytes().len() as u64);
            let all = if self.inherited.is_drained { left } else { u64::MAX };
            let room = Room { all, reserve: self.limits.reserve };
            let taken = &mut self.taken;
            taken.clear();
            for step in
                Walk::of_stream(self.drained.copied(), Place { stream, position }, self.desk.salt.clone())
            {
                match step {
                    Step::Frame(at, frame) => taken.take((at, &frame), &self.open, room),
                    Step::Damage => taken.damage += 1,
                }
            }
            is_any |= head != position;
            self.streams.insert(stream, head);
            self.desk.lost.fetch_add(taken.lost, Ordering::Relaxed);
            // What an earlier process left is counted.
            let damage = if self.inherited.is_drained { taken.damage } else { 0 };
            self.desk.corrupt.fetch_add(damage, Ordering::Relaxed);
            taken.enter(&mut self.drained, &mut self.open);
        }
        self.inherited.is_drained = true;
        self.tell_full(self.is_full(used + self.drained.bytes().len() as u64));
        is_any
    }

    /// What was drained is on the disk: everybody may know.
    fn publish(&mut self) {
        let ends = self.drained.clear();
        let mut books = self.desk.books();
        books.segments.extend(self.segment.iter().map(|segment| (segment.number, segment.length)));
        books.ends += ends;
        drop(books);
        self.make_room();
        self.desk.durable.ring();
    }

    fn make_room(&self) {
        for slate in &self.slates {
            if let Some(position) = self.streams.get(&slate.stream()) {
                slate.reached(*position);
            }
        }
    }

    /// Removes segments of which everything is released, the oldest first: one that stayed while a later one went would have
    /// starts without their ends.
    fn remove_released(&mut self) {
        let desk = Arc::clone(&self.desk);
        loop {
            let Some(number) = desk.books().disposable() else { return };
            let removed = std::fs::remove_file(desk.folder.segment(number));
            let stays = removed.err().filter(|error| error.kind() != io::ErrorKind::NotFound);
            let is_stuck = stays.is_some();
            if let Some(error) = stays.filter(|_| !self.state.stuck) {
                warn!(target: "obleth_ledger", segment = number, %error, "a segment that is not needed any more cannot be removed");
            }
            self.state.stuck = is_stuck;
            if is_stuck {
                return;
            }
            desk.books().segments.remove(&number);
        }
    }

    pub(crate) fn tell(&mut self, error: Option<&io::Error>) {
        let dir = self.desk.folder.dir.display();
        match error {
            Some(error) if !self.state.refused => {
                error!(target: "obleth_ledger", %dir, %error, "the usage log cannot be written; usage is kept in memory as long as there is room, and lost after that");
            }
            None if self.state.refused => {
                info!(target: "obleth_ledger", %dir, lost = self.lost(), "the usage log can be written again");
            }
            _ => {}
        }
        self.state.refused = error.is_some();
    }

    fn tell_overlong(&mut self, error: Option<io::Error>) {
        match &error {
            Some(error) if !self.state.overlong => {
                warn!(target: "obleth_ledger", %error, "the usage log's next segment cannot be begun; the last one gets longer");
            }
            None if self.state.overlong => {
                info!(target: "obleth_ledger", "the usage log's next segment has begun");
            }
            _ => {}
        }
        self.state.overlong = error.is_some();
    }

    fn tell_full(&mut self, is_full: bool) {
        let max_bytes = self.limits.most;
        match (self.state.full, is_full) {
            (false, true) => {
                error!(target: "obleth_ledger", max_bytes, "the usage log is full (OBLETH_WAL_MAX_BYTES): usage is lost until what is in it has been shipped");
            }
            (true, false) => {
                info!(target: "obleth_ledger", max_bytes, lost = self.lost(), "the usage log has room again");
            }
            _ => {}
        }
        self.state.full = is_full;
    }

    fn lost(&self) -> u64 {
        let slates: u64 = self.slates.iter().map(Slate::lost).sum();
        slates + self.desk.lost.load(Ordering::Relaxed)
    }
}
