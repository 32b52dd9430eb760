//! Request heads, strictly: what is ambiguous about target, host or length is refused, never guessed.
//!
//! HTTP/1.0 is parsed, because load balancers ask for the health page with it; whether to answer is the caller's
//! decision. It must never accept a target that a backend could read differently.

use std::mem::MaybeUninit;

use super::fields::Fields;
use super::head::{Framing, HeadError, Limits, Method, Span, Version};
use super::header::{self, HeaderKind, Headers};
use super::target;

/// A request's head. Spans point into the buffer it was parsed from.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The request target as sent, path and query.
    pub target: Span,
    /// The path, still percent-encoded; starts with `/`.
    pub path: Span,
    /// What follows the first `?`, if there is one.
    pub query: Option<Span>,
    /// The sender's version.
    pub version: Version,
    /// All header lines in their order.
    pub headers: Headers,
    /// Where the body ends. Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the sender wants the connection kept. Always false for HTTP/1.0.
    pub keep_alive: bool,
    /// Whether the sender waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The value of `host`; empty if an HTTP/1.0 request had none.
    pub host: Span,
    /// Bytes of the head; the body starts here.
    pub len: usize,
}

impl RequestHead {
    /// The value of the first header of a kind. `buf` is the buffer the head was parsed from.
    #[must_use]
    pub fn get<'b>(&self, buf: &'b [u8], kind: HeaderKind) -> Option<&'b [u8]> {
        header::first(&self.headers, buf, kind)
    }

    /// Name, value and kind of every header, in their order.
    pub fn iter<'b>(&'b self, buf: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8], HeaderKind)> {
        header::iter(&self.headers, buf)
    }
}

/// Parses the head that [`super::HeadScan::find_end`] found: the first `len` bytes of `buf`, whose line ends it
/// has judged. More bytes may follow.
///
/// # Errors
/// As [`HeadError`] says; `Bad` if `len` is not the length of a head.
pub fn parse_request(buf: &[u8], len: usize, limits: &Limits) -> Result<RequestHead, HeadError> {
    let bytes = buf.get(..len).ok_or(HeadError::Bad("an incomplete head"))?;
    if len > limits.head {
        return Err(HeadError::TooLarge);
    }
    let version = read_version(bytes, limits)?;
    let mut table = [const { MaybeUninit::uninit() }; Limits::MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut table) {
        Ok(httparse::Status::Complete(end)) if end == len => {}
        Ok(_) => return Err(HeadError::Bad("an incomplete head")),
        // The version was judged above, so here it stands in the wrong place: too many words.
        Err(httparse::Error::Version) => return Err(HeadError::Bad("the request line")),
        Err(error) => return Err(blame(error)),
    }
    let fields = Fields::read(bytes, request.headers, limits)?;
    let method = Method::from_token(request.method.unwrap_or_default().as_bytes());
    let target = Span::locate(bytes, request.path.unwrap_or_default().as_bytes());
    let (path, query) = target::split(bytes, target)?;
    let host = check_host(bytes, fields.host, version)?;
    if fields.websocket {
        return Err(HeadError::Bad("Upgrade: websocket is not supported"));
    }
    if fields.chunked && version == Version::Http10 {
        return Err(HeadError::Bad("Transfer-Encoding in an HTTP/1.0 request"));
    }
    let framing = match fields.content_length {
        _ if fields.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::None,
    };
    let modern = version == Version::Http11;
    Ok(RequestHead {
        method,
        target,
        path,
        query,
        version,
        headers: fields.headers,
        framing,
        keep_alive: modern && !fields.close,
        expect_continue: modern && fields.expect_continue,
        host,
        len,
    })
}

/// The version in the request line, judged before anything else so that a sender of another version is told so.
fn read_version(bytes: &[u8], limits: &Limits) -> Result<Version, HeadError> {
    let first = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let rest = bytes.get(first..).unwrap_or_default();
    let line = memchr::memchr2(b'\r', b'\n', rest).map_or(rest, |end| rest.get(..end).unwrap_or_default());
    if line.len() > limits.request_line {
        return Err(HeadError::UriTooLong);
    }
    let mut words = line.rsplit(|byte| *byte == b' ');
    let last = words.next().unwrap_or_default();
    match last {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ if last.starts_with(b"HTTP/") => Err(HeadError::Version),
        // `GET /path` alone is how HTTP/0.9 asked.
        [b'/', ..] if matches!(words.next(), Some(b"GET")) && words.next().is_none() => {
            Err(HeadError::Version)
        }
        _ => Err(HeadError::Bad("the request line")),
    }
}

/// Exactly one host for HTTP/1.1 (RFC 9112 §3.2), of characters that no reader can take for a path, a fragment
/// or user information.
fn check_host(bytes: &[u8], host: Option<Span>, version: Version) -> Result<Span, HeadError> {
    let Some(span) = host else {
        return if version == Version::Http10 { Ok(Span::default()) } else { Err(HeadError::Bad("no Host")) };
    };
    let sane = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
    };
    let host = span.of(bytes);
    if host.is_empty() || !host.iter().all(sane) {
        return Err(HeadError::Bad("the value of Host"));
    }
    Ok(span)
}

/// What `httparse` refused, in our words.
pub(super) fn blame(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::Bad("a header name"),
        httparse::Error::HeaderValue => HeadError::Bad("a header value"),
        httparse::Error::NewLine => HeadError::Bad("a line end"),
        httparse::Error::Status => HeadError::Bad("the status line"),
        httparse::Error::Token => HeadError::Bad("the first line"),
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version => HeadError::Version,
    }
}
