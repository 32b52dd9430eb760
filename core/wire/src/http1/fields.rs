//! One pass over the header lines of a head: spans and kinds, and the fields that decide where the message ends
//! and whether the connection lives on.
//!
//! Shared by requests and responses, so that lengths are judged equally strictly on both legs. It must never
//! choose between two readings of a length: two make the message bad.

use smallvec::SmallVec;

use super::head::{HeadError, Limits, Span};
use super::header::{Header, HeaderKind, Headers};

/// How many options the `connection` headers of one head may have together. Each is compared with each header,
/// so without a bound a 64 KiB head would cost millions of comparisons.
const MAX_CONNECTION_OPTIONS: usize = 32;

/// What the header lines of one head say.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) headers: Headers,
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) host: Option<Span>,
    pub(super) expect_continue: bool,
    pub(super) websocket: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) keep_alive_timeout_secs: Option<u32>,
}

impl Fields {
    /// Reads the lines `httparse` cut, which are slices of `buf`.
    pub(super) fn read(
        buf: &[u8],
        lines: &[httparse::Header<'_>],
        limits: &Limits,
    ) -> Result<Self, HeadError> {
        if lines.len() > limits.headers {
            return Err(HeadError::TooLarge);
        }
        let mut fields = Self { headers: Headers::with_capacity(lines.len()), ..Self::default() };
        let mut options = 0_usize;
        for line in lines {
            let name = line.name.as_bytes();
            let value = trim(line.value);
            let kind = HeaderKind::of(name);
            let header = Header { name: Span::locate(buf, name), value: Span::locate(buf, value), kind };
            fields.note(header, name, value)?;
            if kind == HeaderKind::Connection {
                options = options.saturating_add(tokens(value).count());
            }
            fields.headers.push(header);
        }
        if options > MAX_CONNECTION_OPTIONS {
            return Err(HeadError::Bad("too many Connection options"));
        }
        if options > 0 {
            fields.apply_connection(buf);
        }
        if fields.chunked && fields.content_length.is_some() {
            return Err(HeadError::Bad("both Content-Length and Transfer-Encoding"));
        }
        Ok(fields)
    }

    fn note(&mut self, header: Header, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        match header.kind {
            HeaderKind::ContentLength => {
                if self.content_length.is_some() {
                    return Err(HeadError::Bad("more than one Content-Length"));
                }
                let length = decimal(value).ok_or(HeadError::Bad("Content-Length is not a number"))?;
                self.content_length = Some(length);
            }
            HeaderKind::TransferEncoding => {
                if self.chunked {
                    return Err(HeadError::Bad("more than one Transfer-Encoding"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Bad("Transfer-Encoding is not exactly \"chunked\""));
                }
                self.chunked = true;
            }
            HeaderKind::Host => {
                if self.host.is_some() {
                    return Err(HeadError::Bad("more than one Host"));
                }
                self.host = Some(header.value);
            }
            HeaderKind::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Bad("Expect is not \"100-continue\""));
                }
                self.expect_continue = true;
            }
            HeaderKind::HopByHop if name.eq_ignore_ascii_case(b"upgrade") => {
                let mut protocols = tokens(value);
                self.websocket |= protocols.any(|protocol| {
                    protocol.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"websocket"))
                });
            }
            HeaderKind::HopByHop if name.eq_ignore_ascii_case(b"keep-alive") => {
                self.keep_alive_timeout_secs =
                    tokens(value).find_map(timeout).or(self.keep_alive_timeout_secs);
            }
            _ => {}
        }
        Ok(())
    }

    /// Obeys the options of the `connection` headers: `close`, `keep-alive`, and the names of headers that end
    /// here. Headers the gateway reads itself keep their kind, so that no sender can hide its credential, its
    /// length or the way it came from us.
    fn apply_connection(&mut self, buf: &[u8]) {
        let lists = self.headers.iter().filter(|header| header.kind == HeaderKind::Connection);
        let lists: SmallVec<[Span; 4]> = lists.map(|header| header.value).collect();
        for option in lists.iter().flat_map(|list| tokens(list.of(buf))) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
                continue;
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
                continue;
            }
            for header in &mut self.headers {
                let passes = header.kind.goes_upstream()
                    || header.kind.comes_back()
                    || header.kind == HeaderKind::RequestId;
                let ends_here = passes && header.kind != HeaderKind::ForwardedFor;
                if ends_here && header.name.of(buf).eq_ignore_ascii_case(option) {
                    header.kind = HeaderKind::HopByHop;
                }
            }
        }
    }
}

/// The members of a comma-separated list, without the empty ones.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|token| !token.is_empty())
}

/// The value of `timeout=N`, N in seconds.
fn timeout(parameter: &[u8]) -> Option<u32> {
    let (name, value) = parameter.split_at_checked(8)?;
    if !name.eq_ignore_ascii_case(b"timeout=") {
        return None;
    }
    u32::try_from(decimal(value)?).ok()
}

/// A number of digits only: no sign, no white space, no list, no overflow.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Without the spaces and tabs around it (RFC 9110 §5.6.3: OWS is nothing else).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
