//! Writes heads and chunks into a caller's buffer.
//!
//! Messages leave re-serialised from their parsed form, so what a peer receives is our spelling, never a caller's.
//! Nothing a caller controls may end a line: what holds a CR, a LF or a NUL is left out, and the functions say so.

use crate::word;

/// Ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends `HTTP/1.1 {status} {reason}`.
pub fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `{method} {path} HTTP/1.1`, the path from its parts. False, and nothing written, if either would break the
/// line.
pub fn request_line(out: &mut Vec<u8>, method: &str, path: &[&[u8]]) -> bool {
    let leads_somewhere = path.iter().any(|part| !part.is_empty());
    if !is_token(method.as_bytes()) || !leads_somewhere || !path.iter().all(|part| word::is_visible(part)) {
        return false;
    }
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    path.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    true
}

/// Appends `{name}: {value}`. False, and nothing written, if the value holds a CR, a LF or a NUL. The name stands in
/// our source, and must be a token.
#[inline]
pub fn header(out: &mut Vec<u8>, name: &'static str, value: &[u8]) -> bool {
    debug_assert!(is_token(name.as_bytes()), "{name} is no name of a header");
    let fits = is_one_line(value);
    if fits {
        line(out, name.as_bytes(), value);
    }
    fits
}

/// As [`header`], for a name that is passed on from a parsed head. It must be a token, or nothing is written.
pub fn header_bytes(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    let fits = is_token(name) && is_one_line(value);
    if fits {
        line(out, name, value);
    }
    fits
}

/// Appends `{name}: {value}` for a number. The name stands in our source, and must be a token.
#[inline]
pub fn header_u64(out: &mut Vec<u8>, name: &'static str, value: u64) {
    debug_assert!(is_token(name.as_bytes()), "{name} is no name of a header");
    line(out, name.as_bytes(), itoa::Buffer::new().format(value).as_bytes());
}

/// Part of its callers, which mostly know the name, so that copying it is a store or two.
#[inline(always)]
fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Nothing that would end a header's line, or be taken for its end by somebody.
fn is_one_line(value: &[u8]) -> bool {
    word::line_break(value).is_none()
}

/// Appends the empty line that ends a head.
pub fn end_head(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk: size line, data, CRLF. Nothing for empty data, since an empty chunk would end the body.
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    chunk_head(out, data.len());
    out.extend_from_slice(data);
    chunk_tail(out);
}

/// Appends the size line of a chunk of `len` bytes, which the caller sends itself, and then [`chunk_tail`]. `len`
/// must not be 0: that would end the body.
pub fn chunk_head(out: &mut Vec<u8>, len: usize) {
    let digits = usize::BITS.saturating_sub(len.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (len.unbounded_shr(place.saturating_mul(4)) & 0x0F) as u8;
        out.push(if digit < 10 { b'0' | digit } else { b'a'.saturating_add(digit.saturating_sub(10)) });
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the CRLF behind a chunk's data.
pub fn chunk_tail(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A token (RFC 9110 §5.6.2): what a method or a header name is made of.
fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN.unbounded_shr(u32::from(*byte)) & 1 == 1)
}

/// Bit N is set if byte N may be part of a token. A set, because every byte of every name that is passed on is asked
/// about.
const TOKEN: u128 = {
    let mut set = 0_u128;
    let mut byte = 0_u8;
    while byte < 128 {
        let listed = matches!(
            byte,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if listed || byte.is_ascii_alphanumeric() {
            set |= 1 << byte;
        }
        byte = byte.saturating_add(1);
    }
    set
};

/// The standard reason phrase (RFC 9110 §15, RFC 6585); empty for a status without one.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
