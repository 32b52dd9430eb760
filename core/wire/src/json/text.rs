//! JSON strings and scalars, read and written: escapes undone, names compared, literals quoted.
//!
//! It exists apart from the scan because these few values are read from spans that the scan has already checked. It
//! must never turn an escape that names no character into one: a caller's lone surrogate stays unreadable.

use std::{borrow::Cow, char, str::Chars};

/// What one step through the inside of a string yields.
enum Step {
    Char(char),
    /// An escape that names no character: a lone surrogate, or (in unchecked text) a broken escape.
    Broken,
}

/// Steps through the characters of the inside of a string, undoing escapes on the way.
struct Unescaped<'t> {
    rest: Chars<'t>,
}

impl Unescaped<'_> {
    /// The value of the next four hexadecimal digits.
    fn unit(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.as_str().split_at_checked(4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = rest.chars();
        u32::from_str_radix(digits, 16).ok()
    }

    /// What stands for a `\u` escape whose `\u` is already consumed.
    fn code_point(&mut self) -> Option<char> {
        let high = self.unit()?;
        if !(0xD800..0xDC00).contains(&high) {
            return char::from_u32(high);
        }
        let after = self.rest.as_str().strip_prefix("\\u")?;
        let mut ahead = Unescaped { rest: after.chars() };
        let low = ahead.unit().filter(|low| (0xDC00..0xE000).contains(low))?;
        self.rest = ahead.rest;
        let offset = (high & 0x3FF) << 10 | (low & 0x3FF);
        char::from_u32(offset.saturating_add(0x1_0000))
    }
}

impl Iterator for Unescaped<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let plain = self.rest.next()?;
        if plain != '\\' {
            return Some(Step::Char(plain));
        }
        let named = match self.rest.next() {
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => self.code_point(),
            Some(same @ ('"' | '\\' | '/')) => Some(same),
            _ => None,
        };
        Some(named.map_or(Step::Broken, Step::Char))
    }
}

/// Whether the inside of a string, its escapes undone, is `name`. Never allocates.
pub(crate) fn key_is(inside: &str, name: &str) -> bool {
    let mut wanted = name.chars();
    for step in (Unescaped { rest: inside.chars() }) {
        match step {
            Step::Char(found) if wanted.next() == Some(found) => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

/// The text of a JSON string literal, given with its quotes. Borrowed where it holds no escape; `None` if `literal` is
/// not a string or an escape in it names no character.
pub fn unescape(literal: &str) -> Option<Cow<'_, str>> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inside));
    }
    let mut text = String::with_capacity(inside.len());
    for step in (Unescaped { rest: inside.chars() }) {
        match step {
            Step::Char(found) => text.push(found),
            Step::Broken => return None,
        }
    }
    Some(Cow::Owned(text))
}

/// `true` or `false`; `None` for any other value.
pub fn parse_bool(raw: &str) -> Option<bool> {
    match raw {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A non-negative integer written as digits alone; `None` for signs, fractions, exponents and more than `u64::MAX`.
pub fn parse_u64(raw: &str) -> Option<u64> {
    // The one thing but digits that the standard library takes.
    if raw.starts_with('+') { None } else { raw.parse().ok() }
}

/// Appends `text` as a JSON string literal with its quotes; only what RFC 8259 §7 demands is escaped.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    escape_into(text, |piece| out.extend_from_slice(piece));
}

/// Hands the pieces of the JSON string literal of `text` to `emit`, in order.
pub(crate) fn escape_into(text: &str, mut emit: impl FnMut(&[u8])) {
    emit(b"\"");
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let Some((before, special)) = rest.split_at_checked(plain) else { break };
        emit(before);
        let Some((&byte, after)) = special.split_first() else { break };
        match byte {
            b'"' => emit(b"\\\""),
            b'\\' => emit(b"\\\\"),
            b'\n' => emit(b"\\n"),
            b'\r' => emit(b"\\r"),
            b'\t' => emit(b"\\t"),
            _ => emit(&[b'\\', b'u', b'0', b'0', hex_digit(byte >> 4), hex_digit(byte & 0xF)]),
        }
        rest = after;
    }
    emit(rest);
    emit(b"\"");
}

/// The lower-case hexadecimal digit of a value below 16.
fn hex_digit(nibble: u8) -> u8 {
    char::from_digit(u32::from(nibble), 16).map_or(b'0', |digit| digit as u8)
}
