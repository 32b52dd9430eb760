//! Opening a log: whatever an earlier process left is brought into order before the first note is taken.
//!
//! Everything is read, and nothing that is in a file is changed, until one new segment holds all that was missing: what
//! the slates had and the log had not, and an end for every start that has none. Killed at any moment of it, the next
//! start does it again and no note is there twice: a segment that was not finished says itself how far it got.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    desk::{Books, Desk},
    encoding,
    folder::{FORMAT, Folder, OpenError, at},
    frame::{self, Frame, Place, Salt, Step, Walk},
    position::Position,
    segment::{self, HEADER, Header, Segment, Streams},
    slate::{Left, Slate},
    tail::Tail,
    writer::{Drained, Limits, LogWriter, Open, State},
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
    /// Who writes it. A folder of another node is refused.
    pub node: String,
    /// Shards; may be others than last time.
    pub streams: usize,
    /// How large it may become, what is preallocated (one segment) not counted.
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

/// What the segments and slates say.
#[derive(Debug, Default)]
struct Found {
    books: Books,
    streams: Streams,
    open: Open,
    recovered: Recovered,
    /// Segments with something behind their last frame.
    too_long: Vec<u64>,
    /// What a new segment has to hold.
    missing: Vec<u8>,
    missing_ends: u64,
}

/// Opens the log and recovers what was left. Call it before anything is served: it reads everything that was not released.
///
/// # Errors
/// See [`OpenError`]: the log stays as it was.
pub fn open(options: Options) -> Result<Opened, OpenError> {
    if options.streams > MOST_STREAMS {
        return Err(OpenError::Setting("more than 1024 streams"));
    }
    if options.max_bytes < LEAST_BYTES {
        return Err(OpenError::Setting("less than 128 KiB"));
    }
    let folder = Folder::open(&options.dir, &options.node)?;
    let salt = Salt::of(folder.log_id);
    let ours = options.checkpoint.filter(|checkpoint| checkpoint.log_id == folder.log_id);
    let floor = ours.map_or(Position::default(), |checkpoint| checkpoint.position);
    let mut found = Found::default();
    let numbers = at(&folder.dir, folder.segments())?;
    for number in &numbers {
        found.read_segment(&folder, *number, floor)?;
    }
    // What only the slates have comes behind the segment's beginning, which must not say that it is there: of a write that
    // was cut short, the beginning may be all there is.
    let mut reached = found.streams.clone();
    for stream in at(&folder.dir, folder.slates())? {
        found.read_slate(&folder, stream)?;
    }
    found.end_open(salt);

    let last = numbers.last().copied().unwrap_or_default().max(floor.segment);
    let number = last.checked_add(1).ok_or(OpenError::Setting("a segment number that high"))?;
    let limits = Limits::new(options.max_bytes, options.sync_every);
    let streams = u32::try_from(options.streams).unwrap_or_default();
    for stream in 0..streams {
        found.streams.entry(stream).or_default();
        reached.entry(stream).or_default();
    }
    let header = Header::of(number, folder.log_id);
    let mut bytes = segment::beginning(header, &reached, std::iter::empty(), salt);
    bytes.extend_from_slice(&found.missing);
    let segment = Segment::begin(&folder, number, &bytes, limits.segment);
    let segment = at(&folder.segment(number), segment)?;

    found.cut(&folder)?;

    found.books.segments.insert(number, segment.length);
    found.books.ends += found.missing_ends;
    found.books.released = floor;
    found.books.counted = Position { segment: number, offset: 0 };
    let desk = Arc::new(at(&folder.dir.clone(), Desk::new(folder))?);
    desk.corrupt.store(found.recovered.corrupt, std::sync::atomic::Ordering::Relaxed);
    *desk.books() = found.books;
    let slates = fresh_slates(&desk, &found.streams, streams, options.slate_bytes)?;
    let writer = LogWriter {
        desk: Arc::clone(&desk),
        slates: slates.clone(),
        segment,
        streams: found.streams,
        open: Open::default(),
        limits,
        drained: Drained::default(),
        state: State::default(),
    };
    writer.remove_released();
    let tail = Tail::new(desk, slates.clone());
    Ok(Opened { slates, writer, tail, from: floor, recovered: found.recovered })
}

impl Found {
    fn read_segment(&mut self, folder: &Folder, number: u64, floor: Position) -> Result<(), OpenError> {
        let path = folder.segment(number);
        let bytes = at(&path, fs::read(&path))?;
        let salt = Salt::of(folder.log_id);
        check_header(&path, &bytes, number, folder)?;
        let mut walk = Walk::of_segment(bytes.get(HEADER..).unwrap_or_default(), salt);
        for step in walk.by_ref() {
            match step {
                Step::Frame(offset, frame) => {
                    let end =
                        Position { segment: number, offset: (HEADER + offset + frame.bytes.len()) as u64 };
                    let is_end = self.learn(&frame);
                    self.books.ends += u64::from(is_end);
                    self.books.released_ends += u64::from(is_end && end <= floor);
                }
                Step::Damage => self.recovered.corrupt += 1,
            }
        }
        self.recovered.torn += u64::from(walk.is_torn());
        let length = (HEADER + walk.end()).min(bytes.len());
        if length < bytes.len() {
            self.too_long.push(number);
        }
        self.books.segments.insert(number, length as u64);
        Ok(())
    }

    /// What was torn, and room that was never used.
    fn cut(&self, folder: &Folder) -> Result<(), OpenError> {
        for number in &self.too_long {
            let path = folder.segment(*number);
            let length = self.books.segments.get(number).copied().unwrap_or_default();
            at(&path, segment::cut(&path, length))?;
        }
        Ok(())
    }

    fn read_slate(&mut self, folder: &Folder, stream: u32) -> Result<(), OpenError> {
        let path = folder.slate(stream);
        let Some(position) = self.streams.get(&stream).copied() else {
            // No segment knows the stream, so nobody can tell what of it is in the log.
            self.recovered.corrupt += 1;
            return Ok(());
        };
        let left = at(&path, Left::read(&path, Place { stream, position }))?;
        let (notes, damage) = left.notes(Salt::of(folder.log_id));
        for note in &notes {
            self.missing_ends += u64::from(self.learn(note));
            self.missing.extend_from_slice(note.bytes);
        }
        self.recovered.drained += notes.len() as u64;
        self.recovered.corrupt += damage;
        Ok(())
    }

    /// Returns whether it is an end note.
    fn learn(&mut self, frame: &Frame<'_>) -> bool {
        segment::learn(&mut self.streams, frame);
        match (frame.kind, encoding::id_of(frame.body())) {
            (frame::START, Some(id)) => drop(self.open.insert(id, frame.bytes.into())),
            (frame::END, Some(id)) => drop(self.open.remove(&id)),
            _ => {}
        }
        frame.kind == frame::END
    }

    /// Nobody will end what the dead process had begun: its start notes say what its rows are.
    fn end_open(&mut self, salt: Salt) {
        for start in std::mem::take(&mut self.open).into_values() {
            let body = start.get(frame::HEAD..).unwrap_or_default();
            self.missing.extend_from_slice(&frame::own(frame::END, body, salt));
            self.missing_ends += 1;
            self.recovered.lost += 1;
        }
    }
}

/// A damaged header costs nothing: the file's name and the frames say as much. A whole one of another log does.
fn check_header(path: &Path, bytes: &[u8], number: u64, folder: &Folder) -> Result<(), OpenError> {
    let foreign = |why| Err(OpenError::Foreign { path: path.to_owned(), why });
    match Header::parse(bytes) {
        Some(header) if header.format != FORMAT => {
            Err(OpenError::Version { dir: folder.dir.clone(), found: header.format })
        }
        Some(header) if header.log_id != folder.log_id => foreign("it is another log's"),
        Some(header) if header.number != number => foreign("it was renamed"),
        _ => Ok(()),
    }
}

/// Every start begins with empty slates, so that nothing that an earlier process wrote is ever taken for this one's.
/// What they held is in the log by now.
fn fresh_slates(
    desk: &Arc<Desk>,
    positions: &Streams,
    streams: u32,
    bytes: usize,
) -> Result<Vec<Slate>, OpenError> {
    let folder = &desk.folder;
    let mut slates = Vec::new();
    for stream in 0..streams {
        let (path, new) = (folder.slate(stream), folder.new_slate(stream));
        at(&new, remove_if_there(&new))?;
        let first = Place { stream, position: positions.get(&stream).copied().unwrap_or_default() };
        slates.push(at(&new, Slate::create(&new, bytes, first, desk))?);
        at(&path, fs::rename(&new, &path))?;
    }
    for gone in at(&folder.dir, folder.slates())?.into_iter().filter(|stream| *stream >= streams) {
        let path = folder.slate(gone);
        at(&path, fs::remove_file(&path))?;
    }
    at(&folder.dir, folder.sync())?;
    Ok(slates)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
