//! Opening a log: whatever an earlier process left is brought into order before the first note is taken.
//!
//! Segments are read, and slates go on as they were left: what they have and the log has not, the log thread's first rounds
//! write, and then an end for every start that has none. Killed at any moment of it, the next start does what is left of
//! it: every note says itself how far its stream has come. Nothing of a slate must be given up before that is durable.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tracing::warn;
use uuid::Uuid;

use crate::{
    desk::{Books, Desk},
    drained::{Drained, Open},
    encoding,
    folder::{FORMAT, Folder, OpenError, at},
    frame::{self, Frame, Place, Salt, Step, Walk},
    position::Position,
    segment::{self, HEADER, Header, Streams},
    slate::{Left, Slate},
    tail::Tail,
    writer::{Inherited, Limits, LogWriter, State},
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

/// What the segments and slates say.
#[derive(Debug, Default)]
struct Found {
    books: Books,
    streams: Streams,
    open: Open,
    /// Slates that go on, by stream.
    slates: Vec<Slate>,
    /// Starts without an end, also in the slates.
    unended: BTreeSet<Uuid>,
    recovered: Recovered,
}

/// Opens the log and recovers what was left. Call it before anything is served: it reads everything that was not released.
///
/// On a disk that is full, or does not work, a log that was set up before opens all the same: its slates hold what they
/// have and take more, and the log thread writes all of it once it can.
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
    let folder = Folder::open(&options.dir, options.node.as_deref(), &options.default_node)?;
    let ours = options.checkpoint.filter(|checkpoint| checkpoint.log_id == folder.log_id);
    let floor = ours.map_or(Position::default(), |checkpoint| checkpoint.position);
    let desk = Arc::new(at(&options.dir, Desk::new(folder))?);
    let folder = &desk.folder;
    let mut found = Found::default();
    let numbers = at(&folder.dir, folder.segments())?;
    for number in &numbers {
        found.goes_on_with(*number);
        found.read_segment(folder, *number, floor)?;
    }
    found.goes_on_with(floor.segment);
    at(&folder.spare(), segment::clean_spare(folder))?;
    found.unended = found.open.keys().copied().collect();
    for stream in at(&folder.dir, folder.slates())? {
        found.read_slate(&desk, stream)?;
    }
    let streams = u32::try_from(options.streams).unwrap_or_default();
    for stream in 0..streams {
        found.streams.entry(stream).or_default();
    }
    let last = numbers.last().copied().unwrap_or_default().max(floor.segment);
    let next = last.checked_add(1).ok_or(OpenError::Setting("a segment number that high"))?;
    found.books.released = floor;
    found.books.counted = Position { segment: next, offset: 0 };
    desk.corrupt.store(found.recovered.corrupt, Ordering::Relaxed);
    *desk.books() = std::mem::take(&mut found.books);
    let recovered = found.recovered();
    let limits = Limits::new(options.max_bytes, options.sync_every);
    let mut writer = found.writer(&desk, next, limits);
    let is_written = writer.recover();
    writer.tell(is_written.as_ref().err());
    let slates = slates(&mut writer, streams, options.slate_bytes, is_written)?;
    writer.put_spare_aside();
    let tail = Tail::new(desk, slates.clone());
    let node = tail.node().to_string();
    Ok(Opened { node, slates, writer, tail, from: floor, recovered })
}

impl Found {
    /// A segment that is not the next one says what is open. So does one that the sink has reached, though it is gone. What is
    /// open in those before may have ended in one that is not there any more, and be in the sink.
    fn goes_on_with(&mut self, number: u64) {
        let last = self.books.segments.last_key_value().map(|(last, _)| last + 1);
        if last.is_some_and(|next| next < number) {
            self.open.clear();
        }
    }

    fn read_segment(&mut self, folder: &Folder, number: u64, floor: Position) -> Result<(), OpenError> {
        let path = folder.segment(number);
        let bytes = at(&path, fs::read(&path))?;
        let salt = Salt::of(folder.log_id);
        check_header(&path, &bytes, number, folder)?;
        let mut walk = Walk::of_segment(bytes.get(HEADER..).unwrap_or_default(), salt);
        let mut beginning = Some(Beginning::default());
        for step in walk.by_ref() {
            beginning = beginning.and_then(|beginning| beginning.with(&step, &mut self.open));
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
            // What was torn, and room that was never used: the next segment may need it.
            at(&path, segment::cut(&path, length as u64))?;
        }
        self.books.segments.insert(number, length as u64);
        Ok(())
    }

    /// One that no segment knows, or of a size that no slate has, is counted and made anew: nobody can tell what of it is in
    /// the log.
    fn read_slate(&mut self, desk: &Arc<Desk>, stream: u32) -> Result<(), OpenError> {
        let path = desk.folder.slate(stream);
        let left = match self.streams.get(&stream) {
            Some(position) => at(&path, Left::read(&path, Place { stream, position: *position }))?,
            None => None,
        };
        let Some(left) = left else {
            self.recovered.corrupt += 1;
            return Ok(());
        };
        let missing = left.missing(desk.salt);
        for note in &missing.notes {
            match (note.kind, encoding::id_of(note.body())) {
                (frame::START, Some(id)) => drop(self.unended.insert(id)),
                (frame::END, Some(id)) => drop(self.unended.remove(&id)),
                _ => {}
            }
        }
        self.recovered.drained += missing.notes.len() as u64;
        self.recovered.corrupt += missing.damage;
        let first = Place { stream, position: missing.first };
        self.streams.insert(stream, missing.first);
        self.slates.push(at(&path, Slate::resume(&path, first, missing.head, desk))?);
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

    fn recovered(&self) -> Recovered {
        Recovered { lost: self.unended.len() as u64, ..self.recovered }
    }

    /// The log as it was left: the slates hold what it has not, and the first segment is to be begun.
    fn writer(self, desk: &Arc<Desk>, next: u64, limits: Limits) -> LogWriter {
        let unended = self.unended.into_iter().collect();
        LogWriter {
            desk: Arc::clone(desk),
            slates: self.slates,
            segment: None,
            next,
            roll_at: limits.segment,
            streams: self.streams,
            open: self.open,
            limits,
            drained: Drained::default(),
            inherited: Inherited { is_drained: false, unended },
            state: State::default(),
        }
    }
}

/// What a segment has begun with so far, undamaged. A whole beginning says which starts are open, whatever earlier segments say.
#[derive(Debug, Default)]
struct Beginning {
    has_positions: bool,
    open: Open,
}

impl Beginning {
    /// `None` when it is over. If it is whole, `open` is what it says.
    fn with(mut self, step: &Step<'_>, open: &mut Open) -> Option<Self> {
        let Step::Frame(_, frame) = step else { return None };
        match (frame.kind, self.has_positions) {
            (frame::REACHED, false) => self.has_positions = true,
            (frame::REACHED, true) => {
                *open = self.open;
                return None;
            }
            (frame::START, true) => {
                drop(self.open.insert(encoding::id_of(frame.body())?, frame.bytes.into()))
            }
            _ => return None,
        }
        Some(self)
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
