//! What an earlier process left: which of it has to be read, and what it says.
//!
//! The newest segment that is whole at its beginning, and what follows it, say how far every stream is and what is open. Of
//! those before only the headers are read here: all of a log may be gigabytes, and nobody is served meanwhile. The tail
//! reads them when it ships them. Nothing that a frame says must be given up here: only zeros and what was torn are cut.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    desk::{Books, Desk},
    drained::{Drained, Open, Taken},
    encoding,
    folder::{FORMAT, Folder, OpenError, at},
    frame::{self, Frame, Place, Salt, Step, Walk},
    position::Position,
    recovery::Recovered,
    segment::{self, HEADER, Header, Streams},
    slate::{Left, Slate},
    writer::{Inherited, Limits, LogWriter, State},
};

/// What the segments and slates say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) books: Books,
    pub(crate) streams: Streams,
    open: Open,
    /// Slates that go on, by stream.
    slates: Vec<Slate>,
    /// Starts without an end, also in the slates.
    pub(crate) unended: BTreeSet<Uuid>,
    pub(crate) recovered: Recovered,
}

/// A segment of which no more than this was read.
struct Outside {
    number: u64,
    /// `None` if it is damaged.
    header: Option<Header>,
}

impl Found {
    /// Reads what is needed of the segments. The sink has everything before `floor`.
    pub(crate) fn read_segments(&mut self, folder: &Folder, floor: Position) -> Result<(), OpenError> {
        let mut outsides = Vec::new();
        for number in at(&folder.dir, folder.segments())? {
            let (header, length) = outside(folder, number)?;
            self.books.segments.insert(number, length);
            outsides.push(Outside { number, header });
        }
        let first = newest_whole(folder, &outsides)?;
        let (before, read) = outsides.split_at(first);
        self.books.ends = read.first().and_then(|first| first.header).map_or(0, |header| header.ends);
        self.books.released = floor;
        self.books.released_ends = self.books.ends;
        let mut last = None;
        for Outside { number, .. } in read {
            self.goes_on_with(*number, last);
            self.read_segment(folder, *number, floor)?;
            last = Some(*number);
        }
        self.goes_on_with(floor.segment, last);
        self.unended = self.open.keys().copied().collect();
        if let Some(first) = read.first() {
            self.books.counted.0 = Position { segment: first.number, offset: 0 };
            let waiting = before.partition_point(|segment| segment.number < floor.segment);
            self.books.released_ends = released_ends(folder, &outsides[waiting..], first.number, floor)?
                .unwrap_or(self.books.released_ends);
        }
        Ok(())
    }

    /// A segment that is not the next one says what is open. So does one that the sink has reached, though it is gone. What is
    /// open in those before may have ended in one that is not there any more, and be in the sink.
    fn goes_on_with(&mut self, number: u64, last: Option<u64>) {
        if last.is_some_and(|last| last + 1 < number) {
            self.open.clear();
        }
    }

    fn read_segment(&mut self, folder: &Folder, number: u64, floor: Position) -> Result<(), OpenError> {
        let path = folder.segment(number);
        let bytes = at(&path, fs::read(&path))?;
        let salt = Salt::of(folder.log_id);
        let mut walk = Walk::of_segment(bytes.get(HEADER..).unwrap_or_default(), salt);
        let mut beginning = Some(Beginning::default());
        for step in walk.by_ref() {
            let mut open = None;
            beginning = beginning.and_then(|beginning| beginning.with(&step, &mut open));
            self.open = open.unwrap_or_else(|| std::mem::take(&mut self.open));
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

    pub(crate) fn read_slates(&mut self, desk: &Arc<Desk>) -> Result<(), OpenError> {
        for stream in at(&desk.folder.dir, desk.folder.slates())? {
            self.read_slate(desk, stream)?;
        }
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
        let missing = left.missing(&desk.salt);
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

    /// The log as it was left: the slates hold what it has not, and the first segment is to be begun.
    pub(crate) fn writer(self, desk: &Arc<Desk>, next: u64, limits: Limits) -> LogWriter {
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
            taken: Taken::default(),
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
    fn with(mut self, step: &Step<'_>, open: &mut Option<Open>) -> Option<Self> {
        let Step::Frame(_, frame) = step else { return None };
        match (frame.kind, self.has_positions) {
            (frame::REACHED, false) => self.has_positions = true,
            (frame::REACHED, true) => {
                *open = Some(self.open);
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

/// Its header and its length.
fn outside(folder: &Folder, number: u64) -> Result<(Option<Header>, u64), OpenError> {
    let path = folder.segment(number);
    let file = at(&path, File::open(&path))?;
    let length = at(&path, file.metadata())?.len();
    let mut bytes = [0; HEADER];
    let header = match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        read => at(&path, read.map(|()| Header::parse(&bytes)))?,
    };
    check(&path, header, number, folder)?;
    Ok((header, length))
}

/// Which segment to read first: the newest one that says everything that those before it said. If there is none, the first.
fn newest_whole(folder: &Folder, segments: &[Outside]) -> Result<usize, OpenError> {
    for (ix, segment) in segments.iter().enumerate().rev().filter(|(_, segment)| segment.header.is_some()) {
        let path = folder.segment(segment.number);
        let bytes = at(&path, fs::read(&path))?;
        let mut beginning = Some(Beginning::default());
        for step in Walk::of_segment(bytes.get(HEADER..).unwrap_or_default(), Salt::of(folder.log_id)) {
            let mut open = None;
            beginning = beginning.and_then(|beginning| beginning.with(&step, &mut open));
            if open.is_some() {
                return Ok(ix);
            }
            if beginning.is_none() {
                break;
            }
        }
    }
    Ok(0)
}

/// How many end notes the log had, ever, before the floor, if that is before the segment `first`: as many as were before the
/// next segment that says how many, less those in between. Usually that is read in one header, and a segment at most.
fn released_ends(
    folder: &Folder,
    segments: &[Outside],
    first: u64,
    floor: Position,
) -> Result<Option<u64>, OpenError> {
    let mut waiting: u64 = 0;
    for segment in segments {
        let begins = Position { segment: segment.number, offset: HEADER as u64 };
        if let Some(header) = segment.header.filter(|_| floor <= begins) {
            return Ok(Some(header.ends.saturating_sub(waiting)));
        }
        if segment.number >= first {
            break;
        }
        let path = folder.segment(segment.number);
        let bytes = at(&path, fs::read(&path))?;
        let bytes = bytes.get(HEADER..).unwrap_or_default();
        let is_waiting = |step: &Step<'_>| match step {
            Step::Frame(offset, frame) => {
                let end = (HEADER + offset + frame.bytes.len()) as u64;
                frame.kind == frame::END && Position { segment: segment.number, offset: end } > floor
            }
            Step::Damage => false,
        };
        waiting += Walk::of_segment(bytes, Salt::of(folder.log_id)).filter(is_waiting).count() as u64;
    }
    Ok(None)
}

/// A damaged header costs nothing: the file's name and the frames say as much. A whole one of another log does.
fn check(path: &Path, header: Option<Header>, number: u64, folder: &Folder) -> Result<(), OpenError> {
    let foreign = |why| Err(OpenError::Foreign { path: path.to_owned(), why });
    match header {
        Some(header) if header.format != FORMAT => {
            Err(OpenError::Version { dir: folder.dir.clone(), found: header.format })
        }
        Some(header) if header.log_id != folder.log_id => foreign("it is another log's"),
        Some(header) if header.number != number => foreign("it was renamed"),
        _ => Ok(()),
    }
}
