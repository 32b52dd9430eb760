//! Between the bytes a backend streams and the bytes the client gets: usage is read, and taken out where it was ours.
//!
//! It exists because the gateway asks every stream for usage, some even for running counts, whether the client did or
//! not, and the client's bytes must equal those of a direct call. It must never hold an event that is complete, never change an event it does not
//! fully understand, and never let the cut of the reads change a byte of the result.

use std::{mem, ops::Range, sync::LazyLock};

use memchr::memmem::Finder;

use crate::{
    json::{self, Cut, JsonError, Kind, Member},
    sse::{self, EventScanner},
    usage::Usage,
};

/// Largest event that is read or edited, in bytes; a larger one passes verbatim. Bounds what a stream holds in memory.
pub const MAX_EVENT: usize = 1 << 20;
/// A buffer that grew beyond this for one event is given back after it, so that long streams stay small.
const KEEP_CAPACITY: usize = 16 << 10;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""usage""#));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""error""#));
static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""choices""#));
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""finish_reason""#));
/// Members in which a piece of an answer comes; the last one is an array.
const PIECES: [&[u8]; 6] = [
    br#""content""#,
    br#""text""#,
    br#""reasoning_content""#,
    br#""reasoning""#,
    br#""refusal""#,
    br#""tool_calls""#,
];

/// What is taken out of a stream, because the gateway asked for it and the client did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripUsage {
    /// The stream leaves as it came.
    #[default]
    Nothing,
    /// Running counts: the client asked for usage at the end alone. A stream has them if its first event with choices
    /// does; usage that comes only with the last choices is what the client asked for.
    Running,
    /// Every usage.
    All,
}

/// What becomes of an event in a stream whose usage is stripped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The final usage event: it would not be there.
    Drop,
    /// All of it but this range of the event's bytes.
    Without(Range<usize>),
}

/// The filter of one stream. Owned by the task that serves it; dropping it forgets what is held.
#[derive(Debug, Default)]
pub struct StreamFilter {
    strip: StripUsage,
    /// Usage came with the first choices, so it comes with all of them.
    has_running: bool,
    scanner: EventScanner,
    /// The bytes so far of an event that has not ended.
    held: Vec<u8>,
    /// The data of an event with several `data` lines, joined.
    joined: Vec<u8>,
    /// The event being received has passed [`MAX_EVENT`] and is no longer held.
    oversized: bool,
    /// The last event ended with CR: whether an LF that comes next, which belongs to it, leaves.
    line_feed_leaves: Option<bool>,
    usage: Option<Usage>,
    done: bool,
    has_event: bool,
    error_event: bool,
    /// An event with choices was seen.
    has_choices: bool,
    content_events: u64,
}

impl StreamFilter {
    /// `strip`: what the gateway asked for on its own account.
    pub fn new(strip: StripUsage) -> Self {
        Self { strip, ..Self::default() }
    }

    /// Appends to `out` what may leave of `input`, the next payload bytes of the upstream's body.
    ///
    /// Every complete event leaves at once; an incomplete one, of which a client can make nothing yet, is held until
    /// it ends or passes [`MAX_EVENT`]. So what has left always ends with an event, and an error event can follow it.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        while let Some((&first, after_first)) = rest.split_first() {
            if let Some(leaves) = self.line_feed_leaves.take()
                && first == b'\n'
            {
                if leaves {
                    out.push(b'\n');
                }
                rest = after_first;
                continue;
            }
            let Some(end) = self.scanner.find_end(rest) else {
                self.hold(rest, out);
                return;
            };
            let (last_part, after) = rest.split_at_checked(end.len).unwrap_or((rest, &[]));
            let leaves = self.complete(last_part, out);
            self.line_feed_leaves = end.cr.then_some(leaves);
            rest = after;
        }
    }

    /// The upstream's body ended cleanly: what is held is read as if it were complete, and leaves.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.complete(b"", out);
        }
    }

    /// The last usage reported, in whichever event it was.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether `data: [DONE]` was seen, the clean end of a stream.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Whether a complete event with data was seen; comments do not count.
    pub fn has_event(&self) -> bool {
        self.has_event
    }

    /// Whether part of an event has left and its end has not: only events past [`MAX_EVENT`] do that.
    pub fn is_mid_event(&self) -> bool {
        self.oversized
    }

    /// Events that brought a piece of the answer: the tokens generated, of a backend that sends each by itself. Events
    /// that only name the role, or why the answer ends, are none.
    pub fn content_events(&self) -> u64 {
        self.content_events
    }

    /// Whether an event with a top-level `error` that is not null was seen; backends report failures so under a 200.
    pub fn error_event(&self) -> bool {
        self.error_event
    }

    /// Keeps a part of an event that has not ended.
    fn hold(&mut self, part: &[u8], out: &mut Vec<u8>) {
        if self.oversized {
            out.extend_from_slice(part);
        } else if self.held.len().saturating_add(part.len()) > MAX_EVENT {
            self.give_up(part, out);
            self.oversized = true;
        } else {
            self.held.extend_from_slice(part);
        }
    }

    /// Lets an event that is too large leave as far as it is here. It counts as an event with data.
    fn give_up(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.has_event = true;
        out.extend_from_slice(&self.held);
        out.extend_from_slice(part);
        self.held = Vec::new();
    }

    /// Ends an event with its last part and says whether it leaves.
    fn complete(&mut self, last_part: &[u8], out: &mut Vec<u8>) -> bool {
        if mem::take(&mut self.oversized) {
            out.extend_from_slice(last_part);
            return true;
        }
        if self.held.len().saturating_add(last_part.len()) > MAX_EVENT {
            self.give_up(last_part, out);
            return true;
        }
        if self.held.is_empty() {
            return self.pass_on(last_part, out);
        }
        let mut event = mem::take(&mut self.held);
        event.extend_from_slice(last_part);
        let leaves = self.pass_on(&event, out);
        event.clear();
        if event.capacity() <= KEEP_CAPACITY {
            self.held = event;
        }
        leaves
    }

    fn pass_on(&mut self, event: &[u8], out: &mut Vec<u8>) -> bool {
        match self.read_event(event) {
            Verdict::Pass => out.extend_from_slice(event),
            Verdict::Drop => return false,
            Verdict::Without(range) => {
                out.extend_from_slice(event.get(..range.start).unwrap_or_default());
                out.extend_from_slice(event.get(range.end..).unwrap_or_default());
            }
        }
        true
    }

    fn read_event(&mut self, event: &[u8]) -> Verdict {
        let mut lines = sse::data_lines(event);
        let Some(first) = lines.next() else { return Verdict::Pass };
        if lines.next().is_some() {
            return self.read_joined(event);
        }
        let start = first.start;
        let verdict = self.read_data(event.get(first).unwrap_or_default());
        match verdict {
            Verdict::Without(cut) => {
                Verdict::Without(cut.start.saturating_add(start)..cut.end.saturating_add(start))
            }
            other => other,
        }
    }

    /// Reads an event whose data stands in several lines.
    fn read_joined(&mut self, event: &[u8]) -> Verdict {
        let mut joined = mem::take(&mut self.joined);
        joined.clear();
        for line in sse::data_lines(event) {
            joined.extend_from_slice(event.get(line).unwrap_or_default());
            joined.push(b'\n');
        }
        joined.pop();
        let verdict = match self.read_data(&joined) {
            Verdict::Without(cut) => {
                Verdict::Without(place_in_event(event, cut.start)..place_in_event(event, cut.end))
            }
            other => other,
        };
        if joined.capacity() <= KEEP_CAPACITY {
            self.joined = joined;
        }
        verdict
    }

    /// Reads the data of one event. A range in the verdict refers to `data`.
    fn read_data(&mut self, data: &[u8]) -> Verdict {
        self.has_event = true;
        if data.starts_with(b"[DONE]") {
            self.done = true;
            return Verdict::Pass;
        }
        if USAGE.find(data).is_none()
            && ERROR.find(data).is_none()
            && let Some(filled) = choices_at_a_glance(data)
        {
            if filled {
                self.count(data);
            }
            return Verdict::Pass;
        }
        let mut chunk = Chunk::default();
        if json::members(data, |member| chunk.take(member)).is_err() {
            return Verdict::Pass;
        }
        self.error_event |= chunk.has_error;
        let is_filled = chunk.choices == Choices::Filled;
        let is_first = is_filled && !self.has_choices;
        if is_filled {
            self.count(data);
        }
        let Some((usage, cut)) = chunk.usage else { return Verdict::Pass };
        self.usage = Usage::parse(usage.raw().as_bytes()).or(self.usage);
        self.has_running |= is_first && usage.kind == Kind::Object;
        match (self.strip, usage.kind) {
            (StripUsage::Running, Kind::Object) if is_filled && self.has_running => {
                Verdict::Without(cut.range())
            }
            (StripUsage::Nothing | StripUsage::Running, _) => Verdict::Pass,
            (StripUsage::All, Kind::Object) if chunk.choices == Choices::Empty && !chunk.has_error => {
                Verdict::Drop
            }
            (StripUsage::All, Kind::Object | Kind::Null) => Verdict::Without(cut.range()),
            (StripUsage::All, _) => Verdict::Pass,
        }
    }
}

impl StreamFilter {
    /// Counts an event with choices. The first one often brings a role alone, and the last one a reason alone; between
    /// them nobody sends one without a piece of the answer, so those are not looked into.
    fn count(&mut self, data: &[u8]) {
        let is_first = !mem::replace(&mut self.has_choices, true);
        let may_be_empty =
            is_first || FINISH.find(data).is_some_and(|at| begins(data, at, FINISH.needle(), b'"'));
        if !may_be_empty || brings_something(data) {
            self.content_events = self.content_events.saturating_add(1);
        }
    }
}

/// Whether an event has a piece of an answer in it, going by the names of its members.
fn brings_something(data: &[u8]) -> bool {
    PIECES.iter().any(|name| {
        let mut rest = data;
        while let Some(at) = memchr::memmem::find(rest, name) {
            let (opening, closing) = if name.ends_with(b"calls\"") { (b'[', b']') } else { (b'"', b'"') };
            if begins(rest, at, name, opening)
                && !is_closed_at_once(rest, at.saturating_add(name.len()), closing)
            {
                return true;
            }
            rest = rest.get(at.saturating_add(name.len())..).unwrap_or_default();
        }
        false
    })
}

/// Whether the value of the member whose name stands at `at` begins with this byte.
fn begins(data: &[u8], at: usize, name: &[u8], opening: u8) -> bool {
    value_at(data, at.saturating_add(name.len())).is_some_and(|value| value.first() == Some(&opening))
}

/// Whether the string or array that begins behind `at` is empty.
fn is_closed_at_once(data: &[u8], at: usize, closing: u8) -> bool {
    let inside = value_at(data, at).and_then(|value| value.get(1..)).unwrap_or_default();
    let inside = if closing == b']' { inside.trim_ascii_start() } else { inside };
    inside.first() == Some(&closing)
}

/// What stands behind the colon that follows a member's name.
fn value_at(data: &[u8], after_name: usize) -> Option<&[u8]> {
    let behind = data.get(after_name..)?.trim_ascii_start().strip_prefix(b":")?;
    Some(behind.trim_ascii_start())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Choices {
    /// Not there, or not an array.
    #[default]
    Absent,
    Empty,
    Filled,
}

/// What one event says at its top level.
#[derive(Default)]
struct Chunk<'b> {
    choices: Choices,
    has_error: bool,
    usage: Option<(Member<'b>, Cut)>,
}

impl<'b> Chunk<'b> {
    fn take(&mut self, member: Member<'b>) -> Result<(), JsonError> {
        if let Some((_, cut)) = &mut self.usage {
            cut.follow(&member);
        }
        if member.is("usage") {
            if self.usage.is_some() {
                return Err(JsonError::Duplicate("usage"));
            }
            let cut = Cut::of(&member);
            self.usage = Some((member, cut));
        } else if member.is("choices") && member.kind == Kind::Array {
            self.choices = if member.is_filled_array() { Choices::Filled } else { Choices::Empty };
        } else if member.is("error") {
            self.has_error |= member.kind != Kind::Null;
        }
        Ok(())
    }
}

/// Whether the top-level `choices` are filled, without a scan of the JSON; `None` if that takes a scan to know.
fn choices_at_a_glance(data: &[u8]) -> Option<bool> {
    let Some(name) = CHOICES.find(data) else { return Some(false) };
    let (before, found) = data.split_at_checked(name)?;
    // A second brace before the name: it may stand in an inner object.
    let inside = before.strip_prefix(b"{")?;
    if memchr::memchr(b'{', inside).is_some() {
        return None;
    }
    let value = found.strip_prefix(br#""choices""#)?.trim_ascii_start().strip_prefix(b":")?;
    let elements = value.trim_ascii_start().strip_prefix(b"[")?;
    Some(!elements.trim_ascii_start().starts_with(b"]"))
}

/// Where the byte at `offset` of the joined data stands in the event; for a joining LF, where its line ends.
fn place_in_event(event: &[u8], offset: usize) -> usize {
    let mut joined_start: usize = 0;
    for line in sse::data_lines(event) {
        let joined_end = joined_start.saturating_add(line.len());
        if offset <= joined_end {
            return line.start.saturating_add(offset.saturating_sub(joined_start));
        }
        joined_start = joined_end.saturating_add(1);
    }
    event.len()
}
