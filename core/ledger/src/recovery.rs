//! Opening a log: whatever an earlier process left is brought into order before the first note is taken.
//!
//! Segments are read, and slates go on as they were left: what they have and the log has not, the log thread's first rounds
//! write, and then an end for every start that has none. Killed at any moment of it, the next start does what is left of
//! it: every note says itself how far its stream has come. Nothing of a slate must be given up before that is durable.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tracing::warn;
use uuid::Uuid;

use crate::{
    desk::Desk,
    folder::{Folder, OpenError, at},
    found::Found,
    frame::Place,
    position::Position,
    segment::{self, Streams},
    slate::Slate,
    tail::Tail,
    writer::{Limits, LogWriter},
};

/// Streams that a log may have: their numbers have four digits, and a frame has room for all of them.
const MOST_STREAMS: usize = 1024;

/// Less could not hold a few segments of a few notes.
const LEAST_BYTES: u64 = 128 << 10;

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder; made if it is not there.
    pub dir: PathBuf,
    /// Who writes it, if that was said: a folder of another node is refused then. Else it is the folder's node.
    pub node: Option<String>,
    /// Whose a new folder is if that was not said.
    pub default_node: String,
    /// Shards; may be others than last time.
    pub streams: usize,
    /// How large it may become, what is preallocated (two segments) not counted.
    pub max_bytes: u64,
    /// Between two syncs, while there is something to sync: what a power cut may cost.
    pub sync_every: Duration,
    /// Memory per shard; rounded up to a power of two.
    pub slate_bytes: usize,
    /// How far the sink is, if it knows.
    pub checkpoint: Option<Checkpoint>,
}

/// How far a sink is, as it has to remember it: a place means nothing without the log that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// [`Tail::log_id`].
    pub log_id: Uuid,
    /// The sink has everything before it. New places are all behind it, even if a power cut took that part of the log.
    pub position: Position,
}

/// A log that is open.
#[derive(Debug)]
pub struct Opened {
    /// What the node is called.
    pub node: String,
    /// One for each shard.
    pub slates: Vec<Slate>,
    /// For a thread of its own.
    pub writer: LogWriter,
    /// For whoever ships records.
    pub tail: Tail,
    /// Where to read from: the checkpoint, or the beginning if it is another log's.
    pub from: Position,
    /// What was found.
    pub recovered: Recovered,
}

/// What an earlier process left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments that ended in the middle of a note, and were cut.
    pub torn: u64,
    /// Damaged stretches, each one note or several that stood together.
    pub corrupt: u64,
    /// Notes that only the slates had.
    pub drained: u64,
    /// Requests that had begun and will never end: each got an end note.
    pub lost: u64,
}

/// Opens the log and recovers what was left. Call it before anything is served: it reads what the last process
/// wrote last, a segment or two.
///
/// On a disk that is full, or does not work, a log that was set up before opens all the same: its slates hold what they
/// have and take more, and the log thread writes all of it once it can.
///
/// # Errors
/// See [`OpenError`]: the log has what it had.
pub fn open(options: Options) -> Result<Opened, OpenError> {
    if options.streams > MOST_STREAMS {
        return Err(OpenError::Setting("more than 1024 streams"));
    }
    if options.max_bytes < LEAST_BYTES {
        return Err(OpenError::Setting("less than 128 KiB"));
    }
    let folder = Folder::open(&options.dir, options.node.as_deref(), &options.default_node)?;
    let ours = options.checkpoint.filter(|checkpoint| checkpoint.log_id == folder.log_id);
    let floor = ours.map_or(Position::default(), |checkpoint| checkpoint.position);
    let desk = Arc::new(at(&options.dir, Desk::new(folder))?);
    let folder = &desk.folder;
    let mut found = Found::default();
    found.read_segments(folder, floor)?;
    at(&folder.spare(), segment::clean_spare(folder))?;
    found.read_slates(&desk)?;
    let streams = u32::try_from(options.streams).unwrap_or_default();
    for stream in 0..streams {
        found.streams.entry(stream).or_default();
    }
    let last = found.books.durable().segment.max(floor.segment);
    let next = last.checked_add(1).ok_or(OpenError::Setting("a segment number that high"))?;
    found.books.counted.1 = Position { segment: next, offset: 0 };
    desk.corrupt.store(found.recovered.corrupt, Ordering::Relaxed);
    *desk.books() = std::mem::take(&mut found.books);
    let recovered = Recovered { lost: found.unended.len() as u64, ..found.recovered };
    let mut writer = found.writer(&desk, next, Limits::new(options.max_bytes, options.sync_every));
    let is_written = writer.recover();
    writer.tell(is_written.as_ref().err());
    let slates = slates(&mut writer, streams, options.slate_bytes, is_written)?;
    writer.put_spare_aside();
    let tail = Tail::new(desk, slates.clone());
    let node = tail.node().to_string();
    Ok(Opened { node, slates, writer, tail, from: floor, recovered })
}

/// Every shard's slate. Those that there are go on. New ones are made only when everything is in the log: it then knows them,
/// and nothing of what they replace is needed any more.
fn slates(
    writer: &mut LogWriter,
    streams: u32,
    bytes: usize,
    is_written: io::Result<()>,
) -> Result<Vec<Slate>, OpenError> {
    let desk = Arc::clone(&writer.desk);
    let of = |slates: &[Slate], stream| slates.iter().position(|slate| slate.stream() == stream);
    match is_written {
        Err(error) if !(0..streams).all(|stream| of(&writer.slates, stream).is_some()) => {
            return at(&desk.folder.dir, Err(error));
        }
        Err(_) => {}
        Ok(()) => {
            for stream in 0..streams {
                let there = of(&writer.slates, stream);
                if there.is_some_and(|at| writer.slates[at].size() == Slate::size_for(bytes)) {
                    continue;
                }
                match (there, new_slate(&desk, &writer.streams, stream, bytes)) {
                    (Some(at), Ok(slate)) => writer.slates[at] = slate,
                    (None, slate) => writer.slates.push(slate?),
                    (Some(_), Err(error)) => {
                        warn!(target: "obleth_ledger", %error, "a slate keeps the size that it has");
                    }
                }
            }
            writer.slates.retain(|slate| slate.stream() < streams);
            remove_gone(&desk.folder, streams)?;
        }
    }
    writer.slates.sort_unstable_by_key(Slate::stream);
    Ok(writer.slates.iter().filter(|slate| slate.stream() < streams).cloned().collect())
}

/// What streams had that are no more.
fn remove_gone(folder: &Folder, streams: u32) -> Result<(), OpenError> {
    for gone in at(&folder.dir, folder.slates())?.into_iter().filter(|stream| *stream >= streams) {
        let path = folder.slate(gone);
        at(&path, fs::remove_file(&path))?;
    }
    at(&folder.dir, folder.sync())
}

fn new_slate(desk: &Arc<Desk>, positions: &Streams, stream: u32, bytes: usize) -> Result<Slate, OpenError> {
    let (path, new) = (desk.folder.slate(stream), desk.folder.new_slate(stream));
    at(&new, remove_if_there(&new))?;
    let first = Place { stream, position: positions.get(&stream).copied().unwrap_or_default() };
    let slate = Slate::create(&new, bytes, first, desk).inspect_err(|_| drop(remove_if_there(&new)));
    let slate = at(&new, slate)?;
    at(&path, fs::rename(&new, &path))?;
    Ok(slate)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
