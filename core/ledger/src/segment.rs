//! A segment: one file of the log. See "The segment" in the crate's text.
//!
//! It is written from its beginning to its end, and only what was synced counts. Whatever a failed write left is written
//! over at the same place. It must never be opened for writing again by a later process.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use uuid::Uuid;

use crate::{
    folder::{FORMAT, Folder, preallocate},
    frame::{self, Frame, REACHED, Salt},
};

/// Bytes before the first frame.
pub(crate) const HEADER: usize = 48;
const MAGIC: [u8; 8] = *b"oblethWL";

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    pub(crate) number: u64,
    /// How much of it is durable.
    pub(crate) length: u64,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) number: u64,
    pub(crate) log_id: Uuid,
}

/// How far every stream that ever was has come into the log.
pub(crate) type Streams = BTreeMap<u32, u64>;

impl Segment {
    /// Makes the file, with room for `bytes` more than `beginning`, and syncs it and its name. A file of that number that an
    /// earlier try left is written over.
    pub(crate) fn begin(folder: &Folder, number: u64, beginning: &[u8], bytes: u64) -> io::Result<Self> {
        let path = folder.segment(number);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let length = beginning.len() as u64;
        preallocate(&file, length + bytes)?;
        file.write_all_at(beginning, 0)?;
        file.sync_all()?;
        folder.sync()?;
        Ok(Self { file, number, length })
    }

    /// Writes behind what is durable, and makes that durable. After an error nothing is known of what was written: the same
    /// bytes have to be written again, since the kernel drops what it could not write back.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.file.sync_data()?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives back the room that was not needed.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.file.set_len(self.length)
    }
}

/// Cuts an earlier process's segment off behind its last whole frame.
pub(crate) fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

/// The header, how far the streams are, the starts that are still open, and once more how far the streams are: the loss of
/// a sector does not lose that.
pub(crate) fn beginning<'f>(
    header: Header,
    streams: &Streams,
    open: impl Iterator<Item = &'f [u8]>,
    salt: Salt,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(streams.len() * 16);
    for (stream, position) in streams {
        body.extend_from_slice(&u64::from(*stream).to_le_bytes());
        body.extend_from_slice(&position.to_le_bytes());
    }
    let reached = frame::own(REACHED, &body, salt);
    let mut bytes = header.bytes().to_vec();
    bytes.extend_from_slice(&reached);
    open.for_each(|start| bytes.extend_from_slice(start));
    bytes.extend_from_slice(&reached);
    bytes
}

/// What a frame says of its stream, or of all of them.
pub(crate) fn learn(streams: &mut Streams, frame: &Frame<'_>) {
    let mut reach = |stream: u32, position: u64| {
        let known = streams.entry(stream).or_default();
        *known = position.max(*known);
    };
    match frame.stream {
        frame::OF_THE_LOG if frame.kind == REACHED => {
            for pair in frame.body().as_chunks::<16>().0 {
                let (stream, position) = pair.split_at(8);
                let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                // Streams have numbers of four digits; the field is that wide for the sake of alignment.
                reach(number(stream) as u32, number(position));
            }
        }
        frame::OF_THE_LOG => {}
        stream => reach(stream, frame.end()),
    }
}

impl Header {
    pub(crate) fn of(number: u64, log_id: Uuid) -> Self {
        Self { format: FORMAT, number, log_id }
    }

    fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(self.log_id.as_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` if it is damaged.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut bytes: [u8; HEADER] = *bytes.first_chunk()?;
        let sum = std::mem::take(bytes[12..16].first_chunk_mut::<4>()?);
        let is_whole = bytes[..8] == MAGIC && crc32fast::hash(&bytes) == u32::from_le_bytes(sum);
        is_whole.then_some(Self {
            format: u32::from_le_bytes(*bytes[8..12].first_chunk()?),
            number: u64::from_le_bytes(*bytes[16..24].first_chunk()?),
            log_id: Uuid::from_bytes(*bytes[24..40].first_chunk()?),
        })
    }
}
