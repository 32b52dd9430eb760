//! Response heads, with the same strictness about lengths as requests: a backend that sends two of them is as
//! able to hand one caller another's answer as a client is.
//!
//! It must never give a response without a body one (HEAD, 1xx, 204, 304), nor call a connection reusable when
//! bytes may follow that no framing announced.

use std::mem::MaybeUninit;

use super::fields::Fields;
use super::head::{Framing, HeadError, Limits, Method, Version};
use super::header::{self, HeaderKind, Headers};
use super::request::blame;

/// A response's head. Spans point into the buffer it was parsed from.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 to 599. A 1xx is not the answer yet: skip its head and read the next one (101 never comes, since the
    /// gateway never asks for it).
    pub status: u16,
    /// The sender's version.
    pub version: Version,
    /// All header lines in their order.
    pub headers: Headers,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again once the body is read.
    pub keep_alive: bool,
    /// Seconds the sender keeps an idle connection, if it said so (`keep-alive: timeout=N`).
    pub keep_alive_timeout_secs: Option<u32>,
    /// Bytes of the head; the body starts here.
    pub len: usize,
}

impl ResponseHead {
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

/// Parses the head of an answer to a request of `request_method`: the first `len` bytes of `buf`, as
/// [`super::HeadScan::find_end`] found them. More bytes may follow.
///
/// # Errors
/// As [`HeadError`] says; `Bad` if `len` is not the length of a head.
pub fn parse_response(
    buf: &[u8],
    len: usize,
    request_method: Method,
    limits: &Limits,
) -> Result<ResponseHead, HeadError> {
    let bytes = buf.get(..len).ok_or(HeadError::Bad("an incomplete head"))?;
    if len > limits.head {
        return Err(HeadError::TooLarge);
    }
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::Bad("an empty line before the status line"));
    }
    let mut table = [const { MaybeUninit::uninit() }; Limits::MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, bytes, &mut table) {
        Ok(httparse::Status::Complete(end)) if end == len => {}
        Ok(_) => return Err(HeadError::Bad("an incomplete head")),
        Err(error) => return Err(blame(error)),
    }
    let status = response.code.unwrap_or_default();
    if !(100..600).contains(&status) {
        return Err(HeadError::Bad("the status code"));
    }
    let version = if response.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let fields = Fields::read(bytes, response.headers, limits)?;
    if fields.chunked && version == Version::Http10 {
        return Err(HeadError::Bad("Transfer-Encoding in an HTTP/1.0 response"));
    }
    let framing = framing(status, request_method, &fields);
    let persistent = match version {
        Version::Http11 => !fields.close,
        Version::Http10 => fields.keep_alive && !fields.close,
    };
    // A 1xx or 204 that announces a body may be followed by one all the same: read nothing more from it.
    let announced = fields.chunked || fields.content_length.is_some_and(|length| length > 0);
    let contradictory = announced && (status < 200 || status == 204);
    Ok(ResponseHead {
        status,
        version,
        headers: fields.headers,
        framing,
        keep_alive: persistent && !contradictory && framing != Framing::UntilClose,
        keep_alive_timeout_secs: fields.keep_alive_timeout_secs,
        len,
    })
}

/// RFC 9112 §6.3, for a recipient that never sends CONNECT.
fn framing(status: u16, request_method: Method, fields: &Fields) -> Framing {
    let bodiless = request_method == Method::Head || status < 200 || status == 204 || status == 304;
    match fields.content_length {
        _ if bodiless => Framing::None,
        _ if fields.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}
