//! Finds the end of a head while its bytes arrive.
//!
//! It exists apart from the parser so that a head that comes one byte at a time costs no more than one that comes
//! whole, and so that line ends are judged in one place: every CR must have its LF and every LF its CR. It must
//! never go back over a byte it has judged.

use super::head::{HeadError, Limits};
use crate::word;

/// How many empty lines may stand before a request line. Some old clients send one after a body
/// (RFC 9112 §2.2); more would let a connection live on nothing.
const LEADING_EMPTY_LINES: u8 = 2;

/// The place a connection has reached in the head it is waiting for. One per connection and direction; `reset`
/// before each message.
#[derive(Clone, Debug, Default)]
pub struct HeadScan {
    /// Bytes before this offset are judged.
    next: usize,
    /// Offset of the first byte of the line under way.
    line_start: usize,
    /// Lines ended so far, the first one (request or status line) included, leading empty ones not.
    lines: usize,
    /// Empty lines seen before the first line.
    leading: u8,
}

impl HeadScan {
    /// Looks at the bytes of `buf` that arrived since the last call, and gives the length of the head with its
    /// final empty line (and any empty lines before it) once it is whole. `buf` starts where the message starts
    /// and only ever grows between calls.
    ///
    /// # Errors
    /// A bare CR or LF, a NUL, a first line past [`Limits::request_line`], a head past [`Limits::head`] or
    /// [`Limits::headers`]. The answer does not depend on how the bytes were split over calls.
    pub fn find_end(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
        loop {
            let rest = buf.get(self.next..).unwrap_or_default();
            let Some(hit) = word::line_break(rest) else {
                self.next = self.next.max(buf.len());
                self.check(self.next, self.next, limits)?;
                return Ok(None);
            };
            let at = self.next.wrapping_add(hit);
            let behind = at.wrapping_add(2);
            match rest.get(hit..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {
                    self.check(at, behind, limits)?;
                    if self.end_line(at, limits)? {
                        return Ok(Some(behind));
                    }
                    self.next = behind;
                    self.line_start = behind;
                }
                [b'\r'] => {
                    self.next = at;
                    self.check(at, at.saturating_add(1), limits)?;
                    return Ok(None);
                }
                [b'\r', ..] => {
                    self.check(at, behind, limits)?;
                    return Err(HeadError::Bad("a CR without LF"));
                }
                other => {
                    self.check(at, at.saturating_add(1), limits)?;
                    let what = if other.first() == Some(&0) { "a NUL byte" } else { "a LF without CR" };
                    return Err(HeadError::Bad(what));
                }
            }
        }
    }

    /// Forgets the head; the next call starts a new one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether any byte of a line was seen, so that a connection which closes now was cut rather than idle.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.lines > 0 || self.next > self.line_start
    }

    /// The size limits, for a line that reaches up to `text_end` in a head that needs `seen` bytes to be judged.
    fn check(&self, text_end: usize, seen: usize, limits: &Limits) -> Result<(), HeadError> {
        // Of two limits that were passed, the one that came first is named.
        let line_limit = self.line_start.saturating_add(limits.request_line);
        if self.lines == 0 && text_end > line_limit && line_limit <= limits.head {
            return Err(HeadError::UriTooLong);
        }
        if seen > limits.head {
            return Err(HeadError::TooLarge);
        }
        Ok(())
    }

    /// Takes note of the line that ends at `at`; true if it was the empty one that ends the head.
    fn end_line(&mut self, at: usize, limits: &Limits) -> Result<bool, HeadError> {
        if at > self.line_start {
            self.lines = self.lines.saturating_add(1);
            let headers = self.lines.saturating_sub(1);
            return if headers > limits.headers { Err(HeadError::TooLarge) } else { Ok(false) };
        }
        if self.lines > 0 {
            return Ok(true);
        }
        self.leading = self.leading.saturating_add(1);
        if self.leading > LEADING_EMPTY_LINES {
            return Err(HeadError::Bad("empty lines before the request line"));
        }
        Ok(false)
    }
}
