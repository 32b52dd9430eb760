//! The log's other end: who ships records reads here what is durable, and says what is not needed any more.
//!
//! It reads files, so it belongs on a thread that may wait for a disk. It must never give out a note that a power cut
//! could still take back, because it would then be in the sink and, as a request that was lost, in the log once more.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use obleth_link::Doorbell;
use uuid::Uuid;

use crate::{
    desk::Desk,
    encoding,
    folder::Folder,
    frame::{self, LEAST_NOTE, MAX_FRAME, Step, Walk},
    position::Position,
    record::Record,
    segment::HEADER,
    slate::Slate,
};

/// Bytes that are read at a time; several of the longest frames fit, and a processor's own memory holds it.
const CHUNK: usize = 256 << 10;
/// Bytes that one call reads at most: start notes count too, and a call should not take long for few records.
const MOST_BYTES: u64 = 8 << 20;

/// See the module's text. Clones share what is released; one of them should do the shipping.
#[derive(Clone, Debug)]
pub struct Tail {
    desk: Arc<Desk>,
    slates: Vec<Slate>,
    kept: Arc<Mutex<Kept>>,
}

/// What one reading leaves to the next, which mostly goes on where that ended. Whoever reads takes it away meanwhile.
#[derive(Debug, Default)]
struct Kept {
    /// The segment that was read last, with its number.
    file: Option<(u64, File)>,
    bytes: Vec<u8>,
}

impl Kept {
    fn open(&mut self, folder: &Folder, segment: u64) -> io::Result<(&File, &mut Vec<u8>)> {
        let file = match self.file.take() {
            Some((number, file)) if number == segment => file,
            _ => File::open(folder.segment(segment))?,
        };
        Ok((&self.file.insert((segment, file)).1, &mut self.bytes))
    }
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<R = Record> {
    /// Its end notes, or what the reader has made of them.
    pub records: Vec<R>,
    /// Where it begins.
    pub from: Position,
    /// Where it ends, and the next one begins.
    pub to: Position,
    /// Damaged stretches in it, each one note or several that stood together.
    pub corrupt: u64,
}

impl<R> Batch<R> {
    /// Nothing yet, at that place.
    #[must_use]
    pub fn at(place: Position) -> Self {
        Self { records: Vec::new(), from: place, to: place, corrupt: 0 }
    }
}

/// What all shards had noted at one moment: where each of them was. See [`Tail::noted`].
#[derive(Clone, Debug)]
pub struct Noted(Vec<u64>);

/// How the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that are durable and not released.
    pub bytes: u64,
    /// End notes among them.
    pub records: u64,
    /// End notes that found no room, in a slate or in the log, since the process began.
    pub lost: u64,
    /// Damaged stretches that were passed over since the process began, recovery included.
    pub corrupt: u64,
}

impl Tail {
    pub(crate) fn new(desk: Arc<Desk>, slates: Vec<Slate>) -> Self {
        Self { desk, slates, kept: Arc::default() }
    }

    /// Of this folder, for as long as it is not emptied.
    #[must_use]
    pub fn log_id(&self) -> Uuid {
        self.desk.folder.log_id
    }

    /// What the node is called whose log this is.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.desk.folder.node
    }

    /// Everything before it survives a power cut.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.desk.books().durable()
    }

    /// All that was noted by now.
    #[must_use]
    pub fn noted(&self) -> Noted {
        Noted(self.slates.iter().map(Slate::head).collect())
    }

    /// Whether all of that is durable, so that what [`Tail::durable`] says from now on covers it. Notes that found no room are
    /// not waited for: they will never be durable, and [`Figures::lost`] has counted them by then.
    #[must_use]
    pub fn covers(&self, noted: &Noted) -> bool {
        self.slates.iter().zip(&noted.0).all(|(slate, position)| slate.is_drained_to(*position))
    }

    /// Rings when more is durable. One sleeper: whoever ships.
    #[must_use]
    pub fn bell(&self) -> &Doorbell {
        &self.desk.durable
    }

    /// How the log is.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let slates: u64 = self.slates.iter().map(Slate::lost).sum();
        let books = self.desk.books();
        Figures {
            bytes: books.unreleased(),
            records: books.ends.saturating_sub(books.released_ends),
            lost: slates + self.desk.lost.load(Ordering::Relaxed),
            corrupt: self.desk.corrupt.load(Ordering::Relaxed),
        }
    }

    /// Reads on from `from`, up to so many records or so much as one call should take. `to` is then where to go on, also
    /// where there were no records; it is where everything durable ends if nothing was left out.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, from: Position, max_records: usize) -> io::Result<Batch> {
        self.read_on(Batch::at(from), max_records, |record| record)
    }

    /// As [`Tail::read`], behind a batch: adds to it until it has so many records, each as `make` makes it.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_on<R>(
        &self,
        batch: Batch<R>,
        max_records: usize,
        make: impl FnMut(Record) -> R,
    ) -> io::Result<Batch<R>> {
        let mut reading = Reading::new(self, (batch, self.durable()), max_records, make);
        reading.most_bytes = MOST_BYTES;
        reading.run()
    }

    /// Reads exactly what lies between two places that [`Tail::read`] gave, in this process or an earlier one: the same
    /// records once more. What has been released in between is not there any more.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_again(&self, from: Position, to: Position) -> io::Result<Batch> {
        let batch = Reading::new(self, (Batch::at(from), to), usize::MAX, |record| record).run()?;
        Ok(Batch { to, ..batch })
    }

    /// Nobody will read for a while: what is kept for the next reading goes.
    pub fn let_go(&self) {
        self.kept().bytes = Vec::new();
    }

    /// The sink has everything before this place: segments wholly before it go. Batches without records should be released
    /// as well. What was released stays so; a place before that changes nothing.
    pub fn release(&self, upto: Position) {
        let (released, ends) = {
            let books = self.desk.books();
            (books.released, books.ends_before(upto))
        };
        if upto <= released {
            return;
        }
        // A place that was not read in this process: the figures need to know how many end notes are before it.
        let ends = ends.or_else(|| {
            let reading = Reading::new(self, (Batch::at(released), upto), usize::MAX, drop);
            reading.run().ok().and_then(|_| self.desk.books().ends_before(upto))
        });
        let released = {
            let mut books = self.desk.books();
            books.release(upto, ends);
            books.released
        };
        // A segment that is still open somewhere takes up its room even if it is removed.
        self.kept().file.take_if(|(segment, _)| *segment < released.segment);
        self.desk.notes.ring();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // It is taken and put back whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's way through the segments.
struct Reading<'t, R, F> {
    tail: &'t Tail,
    upto: Position,
    max_records: usize,
    most_bytes: u64,
    batch: Batch<R>,
    make: F,
    /// End notes, those included that cannot be read.
    ends: u64,
    damage: Vec<Position>,
    /// Where the last one goes on, if it is longer than what is read at a time.
    damaged_on: Option<Position>,
}

impl<'t, R, F: FnMut(Record) -> R> Reading<'t, R, F> {
    fn new(tail: &'t Tail, (batch, upto): (Batch<R>, Position), max_records: usize, make: F) -> Self {
        let (ends, damage, damaged_on) = (0, Vec::new(), None);
        Self { tail, upto, max_records, most_bytes: u64::MAX, batch, make, ends, damage, damaged_on }
    }

    fn run(mut self) -> io::Result<Batch<R>> {
        let from = self.batch.to;
        let segments: Vec<_> = {
            let books = self.tail.desk.books();
            let segments = books.segments.range(from.segment..);
            segments.map(|(segment, length)| (*segment, *length)).collect()
        };
        let mut kept = std::mem::take(&mut *self.tail.kept());
        for (segment, length) in segments {
            if segment > self.upto.segment || self.is_done() {
                break;
            }
            if self.batch.to.segment != segment {
                self.batch.to = Position { segment, offset: 0 };
            }
            let length = if segment == self.upto.segment { length.min(self.upto.offset) } else { length };
            if length <= HEADER as u64 {
                // Nothing, or a header that was cut short.
                self.batch.to.offset = length.max(self.batch.to.offset);
            } else if self.batch.to.offset < length {
                self.segment(kept.open(&self.tail.desk.folder, segment)?, length)?;
            }
        }
        *self.tail.kept() = kept;
        self.batch.corrupt += self.damage.len() as u64;
        self.tail.desk.note_read((from, self.batch.to), self.ends, &self.damage);
        Ok(self.batch)
    }

    fn is_done(&self) -> bool {
        self.batch.records.len() >= self.max_records || self.most_bytes == 0
    }

    /// Reads on in one segment, of which so much may be read.
    fn segment(&mut self, (file, bytes): (&File, &mut Vec<u8>), length: u64) -> io::Result<()> {
        while self.batch.to.offset < length && !self.is_done() {
            let offset = self.batch.to.offset.max(HEADER as u64);
            let size = length.saturating_sub(offset).min(CHUNK as u64);
            bytes.resize(bytes.len().max(size as usize), 0);
            let bytes = &mut bytes[..size as usize];
            file.read_exact_at(bytes, offset)?;
            // Room for all that there is, or for a few chunks: what grows is copied.
            let there = length.saturating_sub(offset).min(4 * CHUNK as u64) as usize / LEAST_NOTE;
            let room = self.max_records.saturating_sub(self.batch.records.len());
            self.batch.records.reserve(room.min(there));
            let (taken, is_torn) = self.chunk(bytes, offset);
            let is_last = offset + size >= length;
            let to = match taken {
                // Behind the last frame of all there is nothing, or room that was never used.
                taken if is_last && !self.is_done() => {
                    self.damage_at(offset + taken, is_torn);
                    length
                }
                0 => {
                    self.damage_at(offset, is_torn);
                    let next = offset + size - (MAX_FRAME as u64).min(size / 2);
                    self.damaged_on = is_torn.then_some(self.place(next));
                    next
                }
                taken => offset + taken,
            };
            self.most_bytes = self.most_bytes.saturating_sub(to - offset);
            self.batch.to.offset = to;
        }
        Ok(())
    }

    /// Takes the frames of a chunk that begins at that offset. Returns where the last one ended, and whether something that is
    /// none stands behind it.
    fn chunk(&mut self, bytes: &[u8], offset: u64) -> (u64, bool) {
        let mut walk = Walk::of_segment(bytes, self.tail.desk.salt.clone());
        while !self.is_done() {
            let before = offset + walk.end() as u64;
            match walk.next() {
                None => break,
                Some(Step::Damage) => self.damage_at(before, true),
                Some(Step::Frame(at, frame)) if frame.kind == frame::END => {
                    self.ends += 1;
                    match encoding::decode(frame.body()) {
                        Some(record) => self.batch.records.push((self.make)(record)),
                        None => self.damage_at(offset + at as u64, true),
                    }
                }
                Some(Step::Frame(..)) => {}
            }
        }
        (walk.end() as u64, walk.is_torn())
    }

    fn damage_at(&mut self, offset: u64, is_there: bool) {
        let place = self.place(offset);
        let is_new = is_there && self.damaged_on != Some(place);
        self.damage.extend(is_new.then_some(place));
    }

    fn place(&self, offset: u64) -> Position {
        Position { segment: self.batch.to.segment, offset }
    }
}
