//! A segment: one file of the log. See "The segment" in the crate's text.
//!
//! It is written from its beginning to its end, and only what was synced counts. Whatever a failed write left is written
//! over at the same place. It must never be opened for writing again by a later process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use uuid::Uuid;

use crate::{
    folder::{FORMAT, Folder, preallocate, private},
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
    /// End notes that the log had before it, ever.
    pub(crate) ends: u64,
}

/// How far every stream that ever was has come into the log.
pub(crate) type Streams = BTreeMap<u32, u64>;

impl Segment {
    /// Makes the spare segment one that is written to, and syncs it and its name. It has its name only when its beginning is
    /// whole: that says which starts are open, and would say so still when they are not. Without a spare it is made here, with
    /// room for `bytes` more than `beginning` if there is any.
    pub(crate) fn begin(folder: &Folder, number: u64, beginning: &[u8], bytes: u64) -> io::Result<Self> {
        let (spare, path) = (folder.spare(), folder.segment(number));
        let length = beginning.len() as u64;
        let file = match private().open(&spare) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => made(&spare, length + bytes)?,
            there => there?,
        };
        let write = || {
            file.write_all_at(beginning, 0)?;
            file.sync_all()?;
            fs::rename(&spare, &path)?;
            folder.sync()
        };
        if let Err(error) = write() {
            // A spare is empty. Where even this fails, the next try writes over it before anything else is written.
            let _ = fs::remove_file(&spare);
            let _ = fs::remove_file(&path);
            return Err(error);
        }
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

/// A new file, which grows as it is written where there is no room for all of it.
fn made(path: &Path, bytes: u64) -> io::Result<File> {
    let file = private().create_new(true).open(path)?;
    if preallocate(&file, bytes).is_err() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Puts room for a segment aside if there is any, so that the next one can begin on a disk that is full by then.
pub(crate) fn put_spare_aside(folder: &Folder, bytes: u64) -> io::Result<()> {
    let path = folder.spare();
    let file = match private().create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        file => file?,
    };
    preallocate(&file, bytes).inspect_err(|_| drop(fs::remove_file(&path)))
}

/// Empties the spare segment of an earlier process, which may have died as it began to use it.
pub(crate) fn clean_spare(folder: &Folder) -> io::Result<()> {
    let path = folder.spare();
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    let written = frame::content(&bytes);
    if written > 0 {
        // Written over and not made anew: there may be no room to do that.
        private().open(&path)?.write_all_at(&vec![0; written], 0)?;
    }
    Ok(())
}

/// Cuts an earlier process's segment off behind its last whole frame.
pub(crate) fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = private().open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

/// The header, how far the streams are, the starts that are still open, and once more how far the streams are: the loss of
/// a sector does not lose that.
pub(crate) fn beginning<'f>(
    header: Header,
    streams: &Streams,
    open: impl Iterator<Item = &'f [u8]>,
    salt: &Salt,
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
    pub(crate) fn of(number: u64, log_id: Uuid, ends: u64) -> Self {
        Self { format: FORMAT, number, log_id, ends }
    }

    fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(self.log_id.as_bytes());
        bytes[40..48].copy_from_slice(&self.ends.to_le_bytes());
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
            ends: u64::from_le_bytes(*bytes[40..48].first_chunk()?),
        })
    }
}
