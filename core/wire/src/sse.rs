//! Server-sent events, cut out of a byte stream that arrives in pieces of any size (WHATWG HTML §9.2.6).
//!
//! It exists so that events can be recognised without being changed: it reports offsets and never copies or decodes.
//! It must never depend on where one read ended, not inside a character, not between the CR and the LF of one line end.

use std::ops::Range;

/// Where in a line the scan stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nothing of the line has been seen: a line end here ends the event.
    #[default]
    LineStart,
    /// The line has bytes.
    InLine,
    /// The line before ended with CR: an LF here belongs to that line end.
    AfterCr,
}

/// Finds where events end. An event is everything up to and with the empty line; a comment between two empty lines is
/// one too, without data. Holds no bytes.
#[derive(Clone, Debug, Default)]
pub struct EventScanner {
    place: Place,
}

/// Where an event ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventEnd {
    /// Bytes of the input up to and with the byte that ends the event.
    pub len: usize,
    /// That byte was CR: if the very next byte is LF it belongs to this event too, and the caller must take it.
    pub cr: bool,
}

impl EventScanner {
    /// Looks on from where the last call ended. `None`: all of `input` belongs to an event that has not ended yet.
    pub fn find_end(&mut self, input: &[u8]) -> Option<EventEnd> {
        let mut at: usize = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let &next = rest.first()?;
            match (self.place, next) {
                (Place::AfterCr, b'\n') => {
                    self.place = Place::LineStart;
                    at = at.saturating_add(1);
                }
                (Place::AfterCr | Place::LineStart, b'\n' | b'\r') => {
                    self.place = Place::LineStart;
                    return Some(EventEnd { len: at.saturating_add(1), cr: next == b'\r' });
                }
                _ => {
                    let Some(line) = memchr::memchr2(b'\n', b'\r', rest) else {
                        self.place = Place::InLine;
                        return None;
                    };
                    let ended_by_cr = rest.get(line) == Some(&b'\r');
                    self.place = if ended_by_cr { Place::AfterCr } else { Place::LineStart };
                    at = at.saturating_add(line).saturating_add(1);
                }
            }
        }
    }
}

/// The ranges of `event` that are values of its `data` lines, in order; their text joined by LF is the event's data.
pub fn data_lines(event: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at: usize = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = event.get(at..).filter(|rest| !rest.is_empty())?;
            let len = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let start = at;
            let end = start.saturating_add(len);
            at = end.saturating_add(1);
            let line = rest.get(..len).unwrap_or_default();
            let Some(after_name) = line.strip_prefix(b"data") else { continue };
            match after_name {
                [] => return Some(end..end),
                [b':', b' ', ..] => return Some(start.saturating_add(6)..end),
                [b':', ..] => return Some(start.saturating_add(5)..end),
                _ => {}
            }
        }
    })
}
