//! The nouns that request heads and response heads share: spans, limits, methods, versions, framing, errors.
//!
//! They hold no bytes of a message, so that a head can outlive a reallocation of the buffer it describes.

use thiserror::Error;

/// Half-open range of offsets into the buffer a head was parsed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes the span names, or nothing if the buffer does not reach that far.
    #[inline]
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Number of bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether the span names no byte.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// The place of `part` in `buf`. `part` must be a slice of `buf`; anything else gives an empty span.
    #[inline]
    pub(super) fn locate(buf: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
        let end = start.saturating_add(part.len());
        if end > buf.len() {
            return Self::default();
        }
        // Heads are limited to far less than 4 GiB, so neither conversion saturates.
        Self { start: offset(start), end: offset(end) }
    }

    /// The first byte's offset moved right by `count` bytes.
    #[inline]
    pub(super) fn skip(self, count: usize) -> Self {
        Self { start: self.start.saturating_add(offset(count)), end: self.end }
    }

    /// The first `count` bytes.
    #[inline]
    pub(super) fn take(self, count: usize) -> Self {
        Self { start: self.start, end: self.start.saturating_add(offset(count)).min(self.end) }
    }
}

#[inline]
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// How much of a message the codec reads before it refuses. All in bytes but `headers`.
///
/// Raising one costs memory per connection, nothing else: the work is linear in the bytes read.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The request line without its CRLF; longer is [`HeadError::UriTooLong`].
    pub request_line: usize,
    /// The whole head with its final empty line, and with any empty lines before it.
    pub head: usize,
    /// Header lines; at most [`Limits::MAX_HEADERS`], whatever is set.
    pub headers: usize,
    /// A chunk-size line with its extensions, without its CRLF.
    pub chunk_line: usize,
    /// All trailer lines of a body together, with their CRLFs.
    pub trailers: usize,
}

impl Limits {
    /// The most header lines a head can have: the parser's table of them stands on the stack.
    pub const MAX_HEADERS: usize = 128;
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_line: 8 << 10, head: 64 << 10, headers: 100, chunk_line: 128, trailers: 8 << 10 }
    }
}

/// Why a head is refused. After any of them the connection cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// Malformed or ambiguous; the text says what, in words for the sender. Status 400.
    #[error("malformed HTTP head: {0}")]
    Bad(&'static str),
    /// The request line is longer than [`Limits::request_line`]. Status 414.
    #[error("the request line is too long")]
    UriTooLong,
    /// More bytes than [`Limits::head`] or more lines than [`Limits::headers`]. Status 431.
    #[error("the head has too many bytes or too many header lines")]
    TooLarge,
    /// A version other than HTTP/1.0 and HTTP/1.1. Status 505.
    #[error("unsupported HTTP version; use HTTP/1.1")]
    Version,
}

/// Request method (RFC 9110 §9; PATCH is RFC 5789). Methods are case-sensitive: `get` is [`Method::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Connect,
    Trace,
    Other,
}

impl Method {
    /// The method a token names.
    #[must_use]
    pub fn from_token(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// The token, as it stands in a request line; `-` for [`Method::Other`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Other => "-",
        }
    }
}

/// The versions the codec reads. It writes HTTP/1.1 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the versions")]
pub enum Version {
    Http10,
    Http11,
}

/// How a message's body is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// All bytes until the sender closes. Responses only.
    UntilClose,
}
