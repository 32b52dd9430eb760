//! A frame: one note with a checksum and its place in its stream. See "The frame" in the crate's text.
//!
//! Slates and segments hold nothing but frames, so one walk reads both. It must never trust a length, a place or a
//! number before the checksum has been found right, and it must find the next frame behind any damage.

use crc32fast::Hasher;
use uuid::Uuid;

use crate::{
    encoding::{self, LEAST_RECORD, MAX_RECORD},
    record::{Kind, Record},
};

/// Bytes before the record.
pub(crate) const HEAD: usize = 24;
/// Shortest frame of a note.
pub(crate) const LEAST_NOTE: usize = HEAD + LEAST_RECORD;
/// Longest frame of a note.
pub(crate) const MAX_NOTE: usize = HEAD + MAX_RECORD;
/// Longest frame of any kind. What claims to be longer is damaged.
pub(crate) const MAX_FRAME: usize = 64 << 10;
/// The stream of frames that the log itself made.
pub(crate) const OF_THE_LOG: u32 = u32::MAX;

const MAGIC: u8 = 0xA7;
pub(crate) const START: u8 = 1;
pub(crate) const END: u8 = 2;
/// How far each stream has come into the log.
pub(crate) const REACHED: u8 = 3;

/// What every checksum of a log begins with, so that no other log's frame, and nothing that a client could send, fits.
///
/// A sum that has begun with it, and not its number: to begin one is to ask what the processor can do.
#[derive(Clone, Debug)]
pub(crate) struct Salt(Hasher);

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'b> {
    /// [`START`], [`END`], [`REACHED`], or what a later version of this format added.
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    /// Its first byte's place in its stream.
    pub(crate) position: u64,
    /// All of it.
    pub(crate) bytes: &'b [u8],
}

impl Salt {
    pub(crate) fn of(log_id: Uuid) -> Self {
        Self(Hasher::new_with_initial(crc32fast::hash(log_id.as_bytes())))
    }

    pub(crate) fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut sum = self.0.clone();
        sum.update(bytes);
        sum.finalize()
    }
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) stream: u32,
    pub(crate) position: u64,
}

/// Makes a note's frame in zeroed bytes, and returns the part of them that it takes.
#[inline]
pub(crate) fn note<'b>(
    bytes: &'b mut [u8; MAX_NOTE],
    (kind, record): (Kind, &Record),
    place: Place,
    salt: &Salt,
) -> &'b [u8] {
    let mut length = HEAD;
    if let Some(body) = bytes.last_chunk_mut::<MAX_RECORD>() {
        length += encoding::encode(record, body);
    }
    let note = &mut bytes[..length];
    seal(note, number_of(kind), place, salt);
    note
}

/// A frame of the log's own.
pub(crate) fn own(kind: u8, body: &[u8], salt: &Salt) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    seal(&mut bytes, kind, Place { stream: OF_THE_LOG, position: 0 }, salt);
    bytes
}

fn seal(bytes: &mut [u8], kind: u8, place: Place, salt: &Salt) {
    // At most MAX_FRAME, so the number of words fits.
    let words = (bytes.len() / 8) as u16;
    bytes[4..6].copy_from_slice(&words.to_le_bytes());
    bytes[6] = kind;
    bytes[7] = MAGIC;
    bytes[8..12].copy_from_slice(&place.stream.to_le_bytes());
    bytes[16..24].copy_from_slice(&place.position.to_le_bytes());
    let sum = salt.checksum(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
}

fn number_of(kind: Kind) -> u8 {
    match kind {
        Kind::Start => START,
        Kind::End => END,
    }
}

impl<'b> Frame<'b> {
    /// The frame at the beginning of `bytes`, if a whole one is there.
    pub(crate) fn parse(bytes: &'b [u8], salt: &Salt) -> Option<Self> {
        let [c0, c1, c2, c3, w0, w1, kind, MAGIC, rest @ ..] = bytes.first_chunk::<HEAD>()? else {
            return None;
        };
        let length = usize::from(u16::from_le_bytes([*w0, *w1])) * 8;
        if !(HEAD..=MAX_FRAME).contains(&length) {
            return None;
        }
        let bytes = bytes.get(..length)?;
        if salt.checksum(&bytes[4..]) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
            return None;
        }
        let stream = u32::from_le_bytes(*rest.first_chunk()?);
        let position = u64::from_le_bytes(*rest.last_chunk()?);
        Some(Self { kind: *kind, stream, position, bytes })
    }

    /// Everything behind the head.
    pub(crate) fn body(&self) -> &'b [u8] {
        &self.bytes[HEAD..]
    }

    /// Where the next frame of its stream stands.
    pub(crate) fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }
}

/// What a walk comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'b> {
    /// A frame, and where it begins.
    Frame(usize, Frame<'b>),
    /// Something between two frames that is none.
    Damage,
}

/// From frame to frame through some bytes.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'b> {
    bytes: &'b [u8],
    /// Behind it are zeros only.
    content: usize,
    salt: Salt,
    /// Where the last frame ended.
    at: usize,
    /// A frame behind damage, to be handed out next.
    found: Option<(usize, Frame<'b>)>,
    /// Which stream's bytes these are, and the place of the first of them; `None` for a segment, where all are mixed.
    of: Option<Place>,
}

impl<'b> Walk<'b> {
    /// Through a part of a segment that begins at a multiple of 8.
    pub(crate) fn of_segment(bytes: &'b [u8], salt: Salt) -> Self {
        Self { bytes, content: content(bytes), salt, at: 0, found: None, of: None }
    }

    /// Through one stream's bytes. What another stream or another lap of the ring left there is no frame.
    pub(crate) fn of_stream(bytes: &'b [u8], first: Place, salt: Salt) -> Self {
        Self { bytes, content: content(bytes), salt, at: 0, found: None, of: Some(first) }
    }

    /// Where the last frame that was handed out ended: behind it is nothing, or what was torn.
    pub(crate) fn end(&self) -> usize {
        self.at
    }

    /// Whether anything but zeros stands behind the last frame.
    pub(crate) fn is_torn(&self) -> bool {
        self.bytes[self.at..self.content.max(self.at)].iter().any(|byte| *byte != 0)
    }

    fn frame_at(&self, at: usize) -> Option<Frame<'b>> {
        let frame = Frame::parse(self.bytes.get(at..)?, &self.salt)?;
        let fits = |first: Place| {
            frame.stream == first.stream && frame.position == first.position.wrapping_add(at as u64)
        };
        self.of.is_none_or(fits).then_some(frame)
    }

    fn pass(&mut self, at: usize, frame: Frame<'b>) -> Step<'b> {
        self.at = at + frame.bytes.len();
        Step::Frame(at, frame)
    }
}

/// How much is left without the zeros at the end, to a page or so: most of a new segment is such.
pub(crate) fn content(mut bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some((before, &ZEROS)) = bytes.split_last_chunk() {
        bytes = before;
    }
    bytes.len()
}

impl<'b> Iterator for Walk<'b> {
    type Item = Step<'b>;

    fn next(&mut self) -> Option<Step<'b>> {
        if let Some((at, frame)) = self.found.take() {
            return Some(self.pass(at, frame));
        }
        if let Some(frame) = self.frame_at(self.at) {
            return Some(self.pass(self.at, frame));
        }
        let mut behind = (self.at + 8..self.content).step_by(8);
        self.found = behind.find_map(|at| Some((at, self.frame_at(at)?)));
        self.found.map(|_| Step::Damage)
    }
}
