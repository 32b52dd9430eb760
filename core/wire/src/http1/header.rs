//! Header lines, and what each is to a gateway.
//!
//! A header's name is compared once, while the head is parsed; everything later (the credential, the forwarding
//! of the rest, the response's own headers) asks for its [`HeaderKind`]. What is forwarded is decided here and
//! nowhere else, so that no stage can leak a credential by listing headers of its own.

use super::head::Span;
use crate::word;

/// The header lines of a head, in their order. On the heap, because a head is moved from stage to stage.
pub type Headers = Vec<Header>;

/// One header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name as it was sent, in any case.
    pub name: Span,
    /// The value without the white space around it.
    pub value: Span,
    /// What the header is to a gateway.
    pub kind: HeaderKind,
}

/// What a header is to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// `authorization`
    Authorization,
    /// `x-api-key`
    XApiKey,
    /// `api-key`
    ApiKey,
    /// `cookie`
    Cookie,
    /// `set-cookie`
    SetCookie,
    /// `host`
    Host,
    /// `content-length`
    ContentLength,
    /// `content-type`
    ContentType,
    /// `content-encoding`
    ContentEncoding,
    /// `accept-encoding`
    AcceptEncoding,
    /// `cache-control`
    CacheControl,
    /// `transfer-encoding`
    TransferEncoding,
    /// `connection`
    Connection,
    /// `keep-alive`, `te`, `trailer`, `upgrade`, `http2-settings`, `proxy-*`, and any header that would be passed
    /// on but is named by a `connection` option (RFC 9110 §7.6.1).
    HopByHop,
    /// `expect`
    Expect,
    /// `x-request-id`
    RequestId,
    /// `x-session-id`: what the client calls a conversation.
    SessionId,
    /// `retry-after`
    RetryAfter,
    /// `x-obleth-*`
    Obleth,
    /// `openai-*`
    OpenAi,
    /// `x-ratelimit-*`
    RateLimit,
    /// `x-forwarded-for`
    ForwardedFor,
    /// `x-stainless-timeout`, `x-stainless-read-timeout`: how many seconds an SDK waits.
    Patience,
    /// Everything else.
    Other,
}

impl HeaderKind {
    /// The kind of a header by its name, in any case. Never [`HeaderKind::HopByHop`] because of a `connection`
    /// option: only the head as a whole knows those.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let ends = word::lower_ends(name);
        // The ends are the whole of a name of up to 16 bytes.
        let is = |wanted: &[u8]| ends == word::lower_ends(wanted);
        let is_long = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        let starts =
            |wanted: &[u8]| name.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
        match name.len() {
            2 if is(b"te") => Self::HopByHop,
            4 if is(b"host") => Self::Host,
            6 if is(b"cookie") => Self::Cookie,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"api-key") => Self::ApiKey,
            7 if is(b"upgrade") || is(b"trailer") => Self::HopByHop,
            9 if is(b"x-api-key") => Self::XApiKey,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"set-cookie") => Self::SetCookie,
            10 if is(b"keep-alive") => Self::HopByHop,
            11 if is(b"retry-after") => Self::RetryAfter,
            12 if is(b"content-type") => Self::ContentType,
            12 if is(b"x-request-id") => Self::RequestId,
            12 if is(b"x-session-id") => Self::SessionId,
            13 if is(b"authorization") => Self::Authorization,
            13 if is(b"cache-control") => Self::CacheControl,
            14 if is(b"content-length") => Self::ContentLength,
            14 if is(b"http2-settings") => Self::HopByHop,
            15 if is(b"accept-encoding") => Self::AcceptEncoding,
            15 if is(b"x-forwarded-for") => Self::ForwardedFor,
            16 if is(b"content-encoding") => Self::ContentEncoding,
            17 if is_long(b"transfer-encoding") => Self::TransferEncoding,
            19 if is_long(b"x-stainless-timeout") => Self::Patience,
            24 if is_long(b"x-stainless-read-timeout") => Self::Patience,
            _ => match name.first() {
                Some(b'x' | b'X') if starts(b"x-obleth-") => Self::Obleth,
                Some(b'x' | b'X') if starts(b"x-ratelimit-") => Self::RateLimit,
                Some(b'o' | b'O') if starts(b"openai-") => Self::OpenAi,
                Some(b'p' | b'P') if starts(b"proxy-") => Self::HopByHop,
                _ => Self::Other,
            },
        }
    }

    /// Whether a caller's header of this kind is passed on to a backend. Credentials, cookies and hop-by-hop
    /// headers are not; neither are those the gateway writes itself: host, length, type, accepted codings,
    /// request id.
    #[must_use]
    pub fn goes_upstream(self) -> bool {
        match self {
            Self::ContentEncoding
            | Self::CacheControl
            | Self::RetryAfter
            | Self::OpenAi
            | Self::RateLimit
            | Self::ForwardedFor
            | Self::Patience
            | Self::SessionId
            | Self::Other => true,
            Self::Authorization
            | Self::XApiKey
            | Self::ApiKey
            | Self::Cookie
            | Self::SetCookie
            | Self::Host
            | Self::ContentLength
            | Self::ContentType
            | Self::AcceptEncoding
            | Self::TransferEncoding
            | Self::Connection
            | Self::HopByHop
            | Self::Expect
            | Self::RequestId
            | Self::Obleth => false,
        }
    }

    /// Whether a backend's header of this kind is passed back to the caller as it is. `x-ratelimit-*` is not:
    /// the caller gets it under another name.
    #[must_use]
    pub fn comes_back(self) -> bool {
        matches!(self, Self::ContentType | Self::ContentEncoding | Self::CacheControl | Self::OpenAi)
    }
}

/// The first header of a kind.
pub(super) fn first<'b>(headers: &[Header], buf: &'b [u8], kind: HeaderKind) -> Option<&'b [u8]> {
    headers.iter().find(|header| header.kind == kind).map(|header| header.value.of(buf))
}

/// Names, values and kinds of all headers, in their order.
pub(super) fn iter<'b>(
    headers: &'b [Header],
    buf: &'b [u8],
) -> impl Iterator<Item = (&'b [u8], &'b [u8], HeaderKind)> {
    headers.iter().map(move |header| (header.name.of(buf), header.value.of(buf), header.kind))
}

#[cfg(test)]
mod tests {
    use super::HeaderKind;

    const NAMES: [&str; 25] = [
        "te",
        "host",
        "cookie",
        "expect",
        "api-key",
        "upgrade",
        "trailer",
        "x-api-key",
        "connection",
        "set-cookie",
        "keep-alive",
        "retry-after",
        "content-type",
        "x-request-id",
        "x-session-id",
        "authorization",
        "cache-control",
        "content-length",
        "http2-settings",
        "accept-encoding",
        "x-forwarded-for",
        "content-encoding",
        "transfer-encoding",
        "x-stainless-timeout",
        "x-stainless-read-timeout",
    ];

    #[test]
    fn a_name_counts_in_any_case_and_with_no_byte_changed() {
        for name in NAMES {
            let kind = HeaderKind::of(name.as_bytes());
            assert_ne!(kind, HeaderKind::Other, "{name}");
            assert_eq!(HeaderKind::of(name.to_ascii_uppercase().as_bytes()), kind, "{name}");
            for (at, byte) in (0..name.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                let mut changed = name.as_bytes().to_vec();
                changed[at] = byte;
                let expected =
                    if changed.eq_ignore_ascii_case(name.as_bytes()) { kind } else { HeaderKind::Other };
                assert_eq!(HeaderKind::of(&changed), expected, "{name} with {byte:#x} at {at}");
            }
            for other in [&name[1..], &name[..name.len() - 1], &format!("{name}x"), &format!("x{name}")] {
                let known = NAMES.contains(&other);
                assert_eq!(HeaderKind::of(other.as_bytes()) == HeaderKind::Other, !known, "{other}");
            }
        }
    }
}
