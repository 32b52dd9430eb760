//! A slate: where one shard writes its notes down, in memory that outlives the process.
//!
//! A ring of words in a file mapped shared. The shard writes at its head; the log thread copies from behind and says how
//! far the log has got, and only that makes room. Nobody syncs the file: a sync holds up whoever writes into it, by a
//! millisecond now and then. Writing a note must never wait, allocate, or fail in any other way than for want of room.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_utils::CachePadded;

use crate::{
    desk::Desk,
    folder::{keep_room, preallocate, private},
    frame::{self, Frame, MAX_NOTE, Place, Salt},
    mapping::Mapping,
    record::{Kind, Record},
};

/// Smallest ring: some hundreds of notes.
const LEAST_BYTES: usize = 64 << 10;
/// Bytes that are zeroed at a time; a ring has several of them.
const CHUNK: usize = 64 << 10;
/// Bytes of notes after which a quiet ring's memory is let go: it is that much, or nearly.
const LET_GO_AFTER: u64 = 128 << 10;
/// The part of a ring, one in so many, that start notes leave free, so that who began finds room to end.
const FOR_ENDS: u64 = 8;

/// One shard's slate. Clones write to the same one, so that a shard that is started again goes on with it; only one
/// thread may write at a time, else notes get mixed up and are lost.
#[derive(Clone, Debug)]
pub struct Slate(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    memory: Mapping,
    /// Words less one; the number of words is a power of two.
    mask: usize,
    stream: u32,
    salt: Salt,
    desk: Arc<Desk>,
    /// Where in the stream the next note goes. Written by the shard.
    head: CachePadded<AtomicU64>,
    /// How far the log has got. Written by the log thread.
    reached: CachePadded<AtomicU64>,
    /// Where the head was when memory was let go last. The log thread's.
    let_go: AtomicU64,
    lost: AtomicU64,
}

impl Slate {
    /// What a slate takes up that is to have room for so much.
    pub(crate) fn size_for(bytes: usize) -> u64 {
        bytes.max(LEAST_BYTES).next_power_of_two() as u64
    }

    /// A slate in a new file.
    pub(crate) fn create(path: &Path, bytes: usize, first: Place, desk: &Arc<Desk>) -> io::Result<Self> {
        let size = Self::size_for(bytes);
        let file = private().read(true).create_new(true).open(path)?;
        // The disk must not turn out to be full at a store into the mapping: that would be a signal.
        preallocate(&file, size)?;
        // Written, and not only reserved: the first store into a page then finds it in memory. Touching it through the
        // mapping would do as well, but count as memory of a process that may never need it.
        let zeros = [0; CHUNK];
        for at in (0..size).step_by(CHUNK) {
            file.write_all_at(&zeros, at)?;
        }
        Self::mapped(&file, first, first.position, desk)
    }

    /// The slate of an earlier process, as that left it: what the log does not have stays, and new notes go behind it.
    pub(crate) fn resume(path: &Path, first: Place, head: u64, desk: &Arc<Desk>) -> io::Result<Self> {
        let file = private().read(true).open(path)?;
        keep_room(&file)?;
        Self::mapped(&file, first, head, desk)
    }

    fn mapped(file: &File, first: Place, head: u64, desk: &Arc<Desk>) -> io::Result<Self> {
        let words = (file.metadata()?.len() / 8) as usize;
        let memory = Mapping::new(file, words)?;
        Ok(Self(Arc::new(Ring {
            memory,
            mask: words - 1,
            stream: first.stream,
            salt: desk.salt.clone(),
            desk: Arc::clone(desk),
            head: AtomicU64::new(head).into(),
            reached: AtomicU64::new(first.position).into(),
            let_go: AtomicU64::new(head),
            lost: AtomicU64::new(0),
        })))
    }

    /// Writes a note down. When this returns `true`, the death of the process cannot lose it; 50 ms later or so neither
    /// can that of the machine's power. `false`: there is no room, because the disk is full or slow; an end note that
    /// finds none is counted in [`Slate::lost`]. If such a request has a start note, the next start of the process makes
    /// that its row.
    pub fn note(&self, kind: Kind, record: &Record) -> bool {
        let ring = &*self.0;
        let position = ring.head.load(Ordering::Relaxed);
        let used = position - ring.reached.load(Ordering::Acquire);
        let (free, kept) = (ring.size() - used, if kind == Kind::Start { ring.size() / FOR_ENDS } else { 0 });
        if free < MAX_NOTE as u64 + kept {
            if kind == Kind::End {
                ring.lost.store(ring.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            return false;
        }
        let mut bytes = [0; MAX_NOTE];
        let place = Place { stream: ring.stream, position };
        let note = frame::note(&mut bytes, (kind, record), place, &ring.salt);
        ring.put(position, note);
        ring.head.store(position + note.len() as u64, Ordering::Release);
        ring.desk.notes.ring();
        true
    }

    /// End notes that found no room, since the process began.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn stream(&self) -> u32 {
        self.0.stream
    }

    /// What it takes up.
    pub(crate) fn size(&self) -> u64 {
        self.0.size()
    }

    /// Where the next note goes.
    pub(crate) fn head(&self) -> u64 {
        self.0.head.load(Ordering::Acquire)
    }

    /// Whether nothing before `position` is only here: it is on the disk, or there was no room for it.
    pub(crate) fn is_drained_to(&self, position: u64) -> bool {
        self.0.reached.load(Ordering::Acquire) >= position
    }

    /// Copies what was noted from `position` on to the end of `into`, and returns where that ends.
    pub(crate) fn copy_from(&self, position: u64, into: &mut Vec<[u8; 8]>) -> u64 {
        let head = self.head();
        let ring = &*self.0;
        let (around, begun) = ring.memory.words().split_at(ring.at(position));
        let mut left = ((head - position) / 8) as usize;
        for words in [begun, around] {
            let words = &words[..words.len().min(left)];
            into.extend(words.iter().map(|word| word.load(Ordering::Relaxed).to_ne_bytes()));
            left -= words.len();
        }
        head
    }

    /// Whether so much was noted since memory was let go last that it is worth while again.
    pub(crate) fn has_much(&self) -> bool {
        self.head() - self.0.let_go.load(Ordering::Relaxed) >= LET_GO_AFTER
    }

    /// Nobody notes anything for a while: what the ring has of the process's memory goes. The notes stay in the file, those
    /// that are not in the log too, and outlive the process as before.
    pub(crate) fn let_go(&self) {
        self.0.memory.let_go();
        self.0.let_go.store(self.head(), Ordering::Relaxed);
    }

    /// The log has got there, and it is on the disk: the room in front of it is free.
    pub(crate) fn reached(&self, position: u64) {
        self.0.reached.store(position, Ordering::Release);
    }
}

impl Ring {
    fn size(&self) -> u64 {
        (self.mask as u64 + 1) * 8
    }

    /// Which word stands there.
    fn at(&self, position: u64) -> usize {
        (position / 8) as usize & self.mask
    }

    /// Puts a frame there, its first word last: before that it is none, whatever else of it is there.
    fn put(&self, position: u64, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        let at = self.at(position);
        let ring = self.memory.words();
        let (begun, around) = words.split_at(words.len().min(ring.len() - at));
        if let [first, rest @ ..] = begun {
            store(&ring[at + 1..], rest);
            store(ring, around);
            ring[at].store(u64::from_ne_bytes(*first), Ordering::Release);
        }
    }
}

fn store(words: &[AtomicU64], values: &[[u8; 8]]) {
    for (word, value) in words.iter().zip(values) {
        word.store(u64::from_ne_bytes(*value), Ordering::Relaxed);
    }
}

/// A slate that an earlier process left, read whole.
#[derive(Debug)]
pub(crate) struct Left {
    /// The ring, and its beginning once more, for a frame that goes around.
    bytes: Vec<u8>,
    size: u64,
    /// How far the log had got.
    reached: Place,
}

/// What a slate has and the log has not.
#[derive(Debug)]
pub(crate) struct Missing<'l> {
    /// In the order in which they were written.
    pub(crate) notes: Vec<Frame<'l>>,
    /// Where in the stream that begins. A full log drops notes while its slates go on, so it may be laps ahead of the log.
    pub(crate) first: u64,
    /// Where it ends: no frame of the ring, of whatever age, is at or behind this.
    pub(crate) head: u64,
    /// Damaged stretches in between.
    pub(crate) damage: u64,
}

impl Left {
    /// `None` for a file of a size that no slate has.
    pub(crate) fn read(path: &Path, reached: Place) -> io::Result<Option<Self>> {
        let mut bytes = std::fs::read(path)?;
        let size = bytes.len();
        if !size.is_power_of_two() || size < MAX_NOTE {
            return Ok(None);
        }
        bytes.extend_from_within(..MAX_NOTE);
        Ok(Some(Self { bytes, size: size as u64, reached }))
    }

    pub(crate) fn missing(&self, salt: &Salt) -> Missing<'_> {
        let (mut notes, mut at) = (Vec::new(), 0);
        while (at as u64) < self.size {
            match Frame::parse(&self.bytes[at..], salt).filter(|frame| self.is_missing(frame, at)) {
                Some(frame) => {
                    at += frame.bytes.len();
                    notes.push(frame);
                }
                None => at += 8,
            }
        }
        notes.sort_unstable_by_key(|frame| frame.position);
        let reached = self.reached.position;
        let head = notes.last().map_or(reached, Frame::end);
        let mut first = reached;
        if head - reached > self.size {
            // What is a lap or more behind was dropped and written over, and not damaged.
            notes.retain(|note| note.position >= head - self.size);
            first = notes.first().map_or(head, |note| note.position);
        }
        let ends = std::iter::once(first).chain(notes.iter().map(Frame::end));
        let damage = notes.iter().zip(ends).filter(|(note, end)| note.position != *end).count() as u64;
        Missing { notes, first, head, damage }
    }

    fn is_missing(&self, frame: &Frame<'_>, at: usize) -> bool {
        let stands_there = frame.position & (self.size - 1) == at as u64;
        stands_there && frame.stream == self.reached.stream && frame.position >= self.reached.position
    }
}
