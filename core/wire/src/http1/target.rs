//! The request target: only origin form, and only paths that every reader takes apart the same way.
//!
//! A gateway that grants by path and a backend that routes by path must see one path. So nothing is normalised:
//! a target with dot segments, doubled or encoded slashes, backslashes or a fragment is refused.

use std::borrow::Cow;

use super::head::{HeadError, Span};
use crate::word;

/// The one place where `%2F` is a plain character: SDKs encode the slash of `org/model` in
/// `GET /v1/models/{id}`, and the rest of that path is the id.
const MODEL_PREFIX: &[u8] = b"/v1/models/";

/// Splits a target into path and query, and refuses what is not an unambiguous origin-form target.
///
/// # Errors
/// [`HeadError::Bad`] with the rule that was broken.
pub(super) fn split(buf: &[u8], target: Span) -> Result<(Span, Option<Span>), HeadError> {
    let bytes = target.of(buf);
    if bytes.first() != Some(&b'/') {
        return Err(HeadError::Bad("the target is not a path"));
    }
    if !word::is_visible(bytes) {
        return Err(HeadError::Bad("the target has a character that must be percent-encoded"));
    }
    let mark = memchr::memchr2(b'?', b'#', bytes);
    let (path, query) = match mark {
        Some(at) => (target.take(at), Some(target.skip(at.saturating_add(1)))),
        None => (target, None),
    };
    // The mark itself, or one in what would be the query.
    if mark.and_then(|at| bytes.get(at..)).is_some_and(|rest| rest.contains(&b'#')) {
        return Err(HeadError::Bad("the target has a fragment"));
    }
    check_path(path.of(buf))?;
    Ok((path, query))
}

fn check_path(path: &[u8]) -> Result<(), HeadError> {
    let rest = path.strip_prefix(MODEL_PREFIX);
    let slash_allowed_from = if rest.is_some() { MODEL_PREFIX.len() } else { usize::MAX };
    let mut segment_start = true;
    let mut segment_dot = false;
    let mut bytes = path.iter().enumerate().skip(1).map(|(at, byte)| (at, *byte));
    while let Some((at, byte)) = bytes.next() {
        if matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_') {
            (segment_start, segment_dot) = (false, false);
            continue;
        }
        let decoded = if byte == b'%' { escaped(&mut bytes)? } else { byte };
        let encoded = byte == b'%';
        match decoded {
            b'/' if encoded && at < slash_allowed_from => return Err(HeadError::Bad("%2F in the path")),
            b'/' if segment_start => return Err(HeadError::Bad("an empty path segment")),
            b'/' if segment_dot => return Err(HeadError::Bad("a dot segment in the path")),
            b'.' if encoded => return Err(HeadError::Bad("%2E in the path")),
            b'.' if path.get(at.saturating_add(1)) == Some(&b'.') => {
                return Err(HeadError::Bad("two dots in the path"));
            }
            b'\\' => return Err(HeadError::Bad("a backslash in the path")),
            0..=0x1F | 0x7F => return Err(HeadError::Bad("an encoded control byte in the path")),
            _ => {}
        }
        segment_dot = segment_start && decoded == b'.';
        segment_start = decoded == b'/';
    }
    if segment_dot {
        return Err(HeadError::Bad("a dot segment in the path"));
    }
    Ok(())
}

/// The byte that the two digits behind a `%` stand for.
fn escaped(bytes: &mut impl Iterator<Item = (usize, u8)>) -> Result<u8, HeadError> {
    let mut digit = || bytes.next().and_then(|(_, byte)| hex(byte));
    let (Some(high), Some(low)) = (digit(), digit()) else {
        return Err(HeadError::Bad("an incomplete percent-encoding in the path"));
    };
    Ok(high << 4 | low)
}

/// Value of a hexadecimal digit.
#[inline]
pub(super) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte & 0x0F),
        b'a'..=b'f' | b'A'..=b'F' => (byte & 0x0F).checked_add(9),
        _ => None,
    }
}

/// Decodes the percent-encoding of a path segment, such as the id in `/v1/models/{id}`. Borrows if there is
/// nothing to decode. None if a `%` is not followed by two hexadecimal digits.
#[must_use]
pub fn percent_decode(segment: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(first) = memchr::memchr(b'%', segment) else {
        return Some(Cow::Borrowed(segment));
    };
    let (plain, rest) = segment.split_at_checked(first)?;
    let mut decoded = Vec::with_capacity(segment.len());
    decoded.extend_from_slice(plain);
    let mut bytes = rest.iter().copied().enumerate();
    while let Some((_, byte)) = bytes.next() {
        decoded.push(if byte == b'%' { escaped(&mut bytes).ok()? } else { byte });
    }
    Some(Cow::Owned(decoded))
}
