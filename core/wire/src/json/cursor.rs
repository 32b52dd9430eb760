//! The strict reader under the scan: one position in one text, moved over tokens that are checked as they pass.
//!
//! It exists apart from the scan so that the grammar of RFC 8259 stands in one place. It must never recurse (a body of
//! brackets would eat the stack) and never build a value. Its text is valid UTF-8; the caller has checked that.

use super::{JsonError, Kind, MAX_DEPTH};
use crate::word;

/// Bytes of a string that are looked at a word at a time, before a vector search begins: most names and values end there.
const NEAR: usize = 32;

/// A position in a text.
pub(super) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte; at most the text's length, or one more after the last `advance`.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Does not saturate: a position is at most a few bytes behind a text, which is never that long.
    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        self.at = self.at.wrapping_add(count);
    }

    #[cold]
    pub(super) fn fault(&self, what: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, what }
    }

    #[inline]
    pub(super) fn skip_blank(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.advance(1);
        }
    }

    /// Moves over a name and says whether it holds escapes.
    pub(super) fn key(&mut self) -> Result<bool, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("expected a field name in double quotes"));
        }
        self.string()
    }

    /// Moves over the colon and the white space on both sides of it.
    pub(super) fn colon(&mut self) -> Result<(), JsonError> {
        self.skip_blank();
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:`"));
        }
        self.advance(1);
        self.skip_blank();
        Ok(())
    }

    /// Moves over one value of a member of the outermost object and says what it was.
    pub(super) fn value(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'{') => self.container().map(|()| Kind::Object),
            Some(b'[') => self.container().map(|()| Kind::Array),
            _ => self.scalar(),
        }
    }

    /// Moves over a string, a number or a literal.
    #[inline]
    fn scalar(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| Kind::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            Some(b't') => self.literal(b"true").map(|()| Kind::Bool),
            Some(b'f') => self.literal(b"false").map(|()| Kind::Bool),
            Some(b'n') => self.literal(b"null").map(|()| Kind::Null),
            _ => Err(self.fault("expected a value")),
        }
    }

    /// Moves over an array or an object with all that it holds.
    fn container(&mut self) -> Result<(), JsonError> {
        // Bit 0 is the innermost open container: 1 an object, 0 an array. The outermost object is not among them.
        let mut kinds: u128 = 0;
        let mut depth: u32 = 0;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    depth = depth.saturating_add(1);
                    if depth >= MAX_DEPTH {
                        return Err(JsonError::TooDeep);
                    }
                    let is_object = open == b'{';
                    kinds = (kinds << 1) | u128::from(is_object);
                    self.advance(1);
                    self.skip_blank();
                    let empty = self.peek() == Some(if is_object { b'}' } else { b']' });
                    if !empty {
                        if is_object {
                            self.key()?;
                            self.colon()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            if self.after_value(&mut kinds, &mut depth)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here and moves to the next value; true when the outermost container is closed.
    #[inline]
    fn after_value(&mut self, kinds: &mut u128, depth: &mut u32) -> Result<bool, JsonError> {
        loop {
            self.skip_blank();
            let is_object = *kinds & 1 == 1;
            match (self.peek(), is_object) {
                (Some(b','), true) => {
                    self.advance(1);
                    self.skip_blank();
                    self.key()?;
                    self.colon()?;
                    return Ok(false);
                }
                (Some(b','), false) => {
                    self.advance(1);
                    self.skip_blank();
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.advance(1);
                    *kinds >>= 1;
                    *depth = depth.saturating_sub(1);
                    if *depth == 0 {
                        return Ok(true);
                    }
                }
                (_, true) => return Err(self.fault("expected `,` or `}`")),
                (_, false) => return Err(self.fault("expected `,` or `]`")),
            }
        }
    }

    /// Moves over a string, from its opening quote, and says whether it holds escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, JsonError> {
        self.advance(1);
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            self.advance(plain_run(rest));
            match self.peek() {
                Some(b'"') => {
                    self.advance(1);
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.fault("raw control character in a string")),
                None => return Err(self.fault("unterminated string")),
            }
        }
    }

    #[inline]
    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bytes.get(self.at.saturating_add(1)) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.advance(2),
            Some(b'u') => {
                let digits = self.bytes.get(self.at.saturating_add(2)..self.at.saturating_add(6));
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(self.fault("`\\u` needs four hexadecimal digits"));
                }
                self.advance(6);
            }
            _ => return Err(self.fault("unknown escape in a string")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.advance(1);
        }
        if self.peek() == Some(b'0') {
            self.advance(1);
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.advance(1);
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.advance(1);
            if let Some(b'+' | b'-') = self.peek() {
                self.advance(1);
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Moves over one or more digits.
    #[inline]
    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fault("expected a digit"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.advance(1);
        }
        Ok(())
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), JsonError> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(self.fault("expected a value"));
        }
        self.advance(word.len());
        Ok(())
    }
}

/// Bytes that end a run of ordinary characters in a string.
#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Length of the run of ordinary string characters at the start of `bytes`.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    let (near, far) = bytes.split_at_checked(NEAR).unwrap_or((bytes, &[]));
    // Flipping bit 1 brings the quote next to the control characters, and moves no other byte in or out of them.
    let marks = |word| word::below(word ^ word::each(0x02), 0x21) | word::equal(word, b'\\');
    let run = word::run(near, marks, is_special);
    if run < NEAR { run } else { run.wrapping_add(plain_far(far)) }
}

/// As [`plain_run`], for long text: one vector search for the end, and one pass without a branch per byte that looks
/// for what must not stand before it. A call of its own, so that short strings pay nothing for it.
#[inline(never)]
fn plain_far(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let run = bytes.get(..end).unwrap_or_default();
    let least = run.iter().fold(u8::MAX, |least, &byte| least.min(byte));
    if least < 0x20 { run.iter().position(|&byte| byte < 0x20).unwrap_or(end) } else { end }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_special, plain_run};

    /// Text in which what ends a run, and its neighbours among all bytes, are as frequent as ordinary characters.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let edges = prop::sample::select(b"\0\x1F\x20!\"#\x5B\\\x5D\x7F\x80\xA2\xDC\xFF".as_slice());
        prop::collection::vec(prop_oneof![9 => Just(b'x'), 1 => edges, 1 => any::<u8>()], 0..200)
    }

    proptest! {
        #[test]
        fn a_run_ends_where_a_look_at_every_byte_says(bytes in text()) {
            for from in 0..=bytes.len() {
                let rest = &bytes[from..];
                let expected = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
                prop_assert_eq!(plain_run(rest), expected, "from {}", from);
            }
        }
    }

    #[test]
    fn every_byte_ends_a_run_or_does_not_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let ordinary = byte >= 0x20 && byte != b'"' && byte != b'\\';
            for at in 0..100 {
                let mut bytes = [b'x'; 100];
                bytes[at] = byte;
                assert_eq!(plain_run(&bytes), if ordinary { 100 } else { at }, "{byte:#x} at {at}");
            }
        }
    }
}
