//! A lazy, strict scan of one JSON object: where its members stand, not what they hold.
//!
//! It exists because the gateway reads a handful of top-level fields and edits fewer, in bodies of megabytes: a document
//! model would cost an allocation per value and would not give back the bytes it was built from. Every byte is still
//! checked against RFC 8259, so that no backend can read a body differently from how it was judged here.
//!
//! It must never panic, never recurse, and never accept what a strict parser refuses. Three differences to a plain
//! parser are on purpose: a lone surrogate escape (`"\ud800"`) is accepted where it stands in a value nobody reads,
//! nesting is limited to [`MAX_DEPTH`], and numbers are checked by their grammar only, so `1e999` passes.

mod cursor;
mod text;

use std::{borrow::Cow, iter, ops::Range};

use cursor::Cursor;
pub(crate) use text::{escape_into, key_is};
pub use text::{parse_bool, parse_u64, unescape, write_string};

/// Deepest nesting of arrays and objects, the outermost object included; deeper input is [`JsonError::TooDeep`].
/// The kinds of the open containers are the bits of one `u128`, so a larger limit needs a larger word.
pub const MAX_DEPTH: u32 = 128;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a text is not one JSON object. Offsets are in bytes from the start of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Some byte is not part of a valid UTF-8 sequence.
    #[error("the body is not valid UTF-8")]
    NotUtf8,
    /// The text begins with a byte order mark, which RFC 8259 §8.1 forbids to send.
    #[error("the body begins with a byte order mark; send UTF-8 without one")]
    Bom,
    /// The top level is another kind of value.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// The grammar is broken.
    #[error("{what} at byte {at}")]
    Syntax {
        /// Offset of the first byte that does not fit.
        at: usize,
        /// What was found or expected there.
        what: &'static str,
    },
    /// Arrays and objects nest deeper than [`MAX_DEPTH`].
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Something other than white space follows the object.
    #[error("unexpected bytes after the end of the object, at byte {at}")]
    Trailing {
        /// Offset of the first such byte.
        at: usize,
    },
    /// A field that is read stands there twice; raised by whoever reads it.
    #[error("the field `{0}` is given more than once")]
    Duplicate(&'static str),
}

/// The kind of a value, known from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// Any number, whatever its form.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// One member of the scanned object. All ranges are byte offsets into the scanned text.
#[derive(Clone, Debug)]
pub struct Member<'b> {
    body: &'b str,
    /// The inside of the name as it is spelt.
    name: &'b str,
    /// The name with its quotes.
    pub key: Range<usize>,
    /// The value, without white space round it; a string with its quotes.
    pub value: Range<usize>,
    /// What the value is.
    pub kind: Kind,
    /// Whether it is the object's first member.
    pub first: bool,
    /// Where the previous member's value ends; for the first member the offset after `{`.
    pub lead: usize,
    key_escaped: bool,
}

impl<'b> Member<'b> {
    /// Whether the name, its escapes undone, is `name`. Never allocates.
    pub fn is(&self, name: &str) -> bool {
        if self.key_escaped { key_is(self.name, name) } else { self.name == name }
    }

    /// Whether the name is `name` to a reader that ignores the case of ASCII letters, as Go's does.
    pub fn is_in_any_case(&self, name: &str) -> bool {
        if !self.key_escaped {
            return self.name.eq_ignore_ascii_case(name);
        }
        let literal = self.body.get(self.key.clone()).unwrap_or_default();
        unescape(literal).is_some_and(|key| key.eq_ignore_ascii_case(name))
    }

    /// The value's bytes as they stand in the text.
    pub fn raw(&self) -> &'b str {
        self.body.get(self.value.clone()).unwrap_or_default()
    }

    /// The value of a string, its escapes undone; `None` for another kind and for a lone surrogate.
    pub fn text(&self) -> Option<Cow<'b, str>> {
        if self.kind == Kind::String { unescape(self.raw()) } else { None }
    }

    /// Whether the value is an array with at least one element.
    pub fn is_filled_array(&self) -> bool {
        let inner = self.raw().strip_prefix('[').unwrap_or("]");
        !inner.trim_ascii_start().starts_with(']')
    }

    /// The kinds of an array's elements, in order; none for another kind of value. Never allocates.
    pub fn elements(&self) -> impl Iterator<Item = Kind> + use<'b> {
        let mut cursor = Cursor::new(self.raw().as_bytes());
        iter::from_fn(move || {
            cursor.skip_blank();
            // Behind the text's first `[`, and behind each comma, an element stands; in an empty array `]` does, which
            // is no value.
            match cursor.peek() {
                Some(b'[' | b',') => cursor.advance(1),
                _ => return None,
            }
            cursor.skip_blank();
            cursor.value().ok()
        })
    }
}

/// What [`members`] learnt of the object itself; offsets are into the scanned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectShape {
    /// Offset after `{`.
    pub open: usize,
    /// Offset of `}`.
    pub close: usize,
    /// Number of members, repeated names counted each time.
    pub members: usize,
}

/// Walks the members of the one object that `body` must be, in order, and checks every byte of it.
///
/// White space may stand before and after the object, nothing else. An error of `visit` ends the walk and is returned.
pub fn members<'b>(
    body: &'b [u8],
    visit: impl FnMut(Member<'b>) -> Result<(), JsonError>,
) -> Result<ObjectShape, JsonError> {
    if body.starts_with(BYTE_ORDER_MARK) {
        return Err(JsonError::Bom);
    }
    let body = text(body)?;
    let mut cursor = Cursor::new(body.as_bytes());
    cursor.skip_blank();
    let shape = object(body, &mut cursor, visit)?;
    end(cursor)?;
    Ok(shape)
}

/// As [`members`], of the object that `bytes` begins with; gives its length. What follows it is another's to judge, but
/// that it is UTF-8.
pub(crate) fn leading_members<'b>(
    bytes: &'b [u8],
    visit: impl FnMut(Member<'b>) -> Result<(), JsonError>,
) -> Result<usize, JsonError> {
    let body = text(bytes)?;
    let mut cursor = Cursor::new(body.as_bytes());
    object(body, &mut cursor, visit)?;
    Ok(cursor.at())
}

/// As [`members`], of the rest of an object, from the name of one of its members on.
pub(crate) fn last_members<'b>(
    rest: &'b [u8],
    visit: impl FnMut(Member<'b>) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    let body = text(rest)?;
    let mut cursor = Cursor::new(body.as_bytes());
    cursor.skip_blank();
    walk(body, &mut cursor, 0, visit)?;
    cursor.advance(1);
    end(cursor)
}

fn text(body: &[u8]) -> Result<&str, JsonError> {
    simdutf8::basic::from_utf8(body).map_err(|_| JsonError::NotUtf8)
}

/// Moves over the object that the next value must be.
fn object<'b>(
    body: &'b str,
    cursor: &mut Cursor<'b>,
    visit: impl FnMut(Member<'b>) -> Result<(), JsonError>,
) -> Result<ObjectShape, JsonError> {
    match cursor.peek() {
        Some(b'{') => cursor.advance(1),
        Some(_) => return Err(JsonError::NotAnObject),
        None => return Err(cursor.fault("the body is empty, expected a JSON object")),
    }
    let open = cursor.at();
    cursor.skip_blank();
    let members = if cursor.peek() == Some(b'}') { 0 } else { walk(body, cursor, open, visit)? };
    let close = cursor.at();
    cursor.advance(1);
    Ok(ObjectShape { open, close, members })
}

/// Moves from the name of a member to the object's `}`, and gives the number of members on the way. The value before
/// the first of them, if there is one, ends at `lead`.
fn walk<'b>(
    body: &'b str,
    cursor: &mut Cursor<'b>,
    mut lead: usize,
    mut visit: impl FnMut(Member<'b>) -> Result<(), JsonError>,
) -> Result<usize, JsonError> {
    let mut members = 0_usize;
    loop {
        let key_start = cursor.at();
        let key_escaped = cursor.key()?;
        let key = key_start..cursor.at();
        let name = body.get(key.start.saturating_add(1)..key.end.saturating_sub(1)).unwrap_or_default();
        cursor.colon()?;
        let value_start = cursor.at();
        let kind = cursor.value()?;
        let value = value_start..cursor.at();
        let value_end = value.end;
        visit(Member { body, name, key, value, kind, first: members == 0, lead, key_escaped })?;
        members = members.saturating_add(1);
        lead = value_end;
        cursor.skip_blank();
        match cursor.peek() {
            Some(b',') => cursor.advance(1),
            Some(b'}') => return Ok(members),
            _ => return Err(cursor.fault("expected `,` or `}`")),
        }
        cursor.skip_blank();
    }
}

/// Only white space may follow.
fn end(mut cursor: Cursor<'_>) -> Result<(), JsonError> {
    cursor.skip_blank();
    if cursor.peek().is_some() {
        return Err(JsonError::Trailing { at: cursor.at() });
    }
    Ok(())
}

/// The bytes to take out so that one member disappears with exactly one comma and the white space that belongs to it.
///
/// Give it the member itself, then every member that follows, then take the range.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    range: Range<usize>,
    awaits_next: bool,
}

impl Cut {
    /// Of any member but the first, the comma before it goes; of the first, the comma after it, if another follows.
    pub(crate) fn of(member: &Member<'_>) -> Self {
        let start = if member.first { member.key.start } else { member.lead };
        Self { range: start..member.value.end, awaits_next: member.first }
    }

    /// Tells the cut where the next member stands.
    pub(crate) fn follow(&mut self, next: &Member<'_>) {
        if self.awaits_next {
            self.range.end = next.key.start;
            self.awaits_next = false;
        }
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}
