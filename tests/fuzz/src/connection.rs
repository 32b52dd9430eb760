//! What a client sends on one connection: request heads are accepted exactly if a naive reading accepts them, the cut of
//! the reads never shows, a head that is written again reads the same, and another server reads the same requests.

use obleth_wire::http1::{
    Framing, HeadScan, Limits, Method, RequestHead, Version, parse_request, percent_decode, write,
};

use crate::{
    body,
    head::{self, Chunked, Lines, tight},
    input::Input,
    peer,
};

/// The most requests of one input that are looked at.
const MOST: usize = 8;

/// A request as it was read.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    pub(crate) version: Version,
    pub(crate) lines: Lines,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// The payload, if the body was complete.
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) has_trailers: bool,
}

/// Text: what a client sends. Option 0: tight limits.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    let limits = if input.option(0) { tight() } else { Limits::default() };
    let mut rest = input.text;
    let mut requests = Vec::new();
    while requests.len() < MOST {
        let whole = read_head([rest], &limits);
        let in_pieces = read_head(Input { text: rest, ..input }.pieces(), &limits);
        assert_eq!(format!("{in_pieces:?}"), format!("{whole:?}"), "the cut of the reads shows");
        let naive = naive(rest, &limits);
        assert_eq!(whole.is_some(), naive.is_some(), "{whole:?} against {naive:?}");
        let (Some(found), Some(mut wanted)) = (whole, naive) else { break };
        agrees(&found, rest, &wanted);
        written_again(&found, rest, &limits);
        rest = &rest[found.len..];
        let body = body::read([rest], found.framing, &limits);
        if let body::Chunked::Complete { has_trailers, .. } = body::chunked(rest, &limits) {
            wanted.has_trailers = has_trailers;
        }
        let end = body.end.ok().flatten();
        wanted.payload = end.map(|_| body.payload);
        let goes_on = wanted.keep_alive;
        requests.push(wanted);
        match end {
            Some(end) if goes_on => rest = &rest[end..],
            _ => break,
        }
    }
    peer::agrees(input.text, &requests);
}

/// Reads a head that arrives in pieces; `None` if it is refused or not whole.
fn read_head<'b>(pieces: impl IntoIterator<Item = &'b [u8]>, limits: &Limits) -> Option<RequestHead> {
    let (mut scan, mut arrived) = (HeadScan::default(), Vec::new());
    for piece in pieces {
        arrived.extend_from_slice(piece);
        if let Some(len) = scan.find_end(&arrived, limits).ok()? {
            return parse_request(&arrived, len, limits).ok();
        }
    }
    None
}

fn naive(text: &[u8], limits: &Limits) -> Option<Request> {
    let cut = head::cut(text, 2, limits)?;
    let words: Vec<_> = cut.first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return None };
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return None,
    };
    if !head::is_token(method) || !is_unambiguous(target) {
        return None;
    }
    let lines = head::lines(&cut.rest)?;
    let hosts: Vec<_> = head::all(&lines, "host").collect();
    let sane = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte);
    let host_is_fine = match hosts[..] {
        [] => version == Version::Http10,
        [host] => !host.is_empty() && host.iter().all(sane),
        _ => false,
    };
    let delimiter = head::delimiter(&lines)?;
    let options = head::connection_options(&lines);
    let websocket = |value: &[u8]| {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        value.split(',').any(|protocol| protocol.trim_matches([' ', '\t']).starts_with("websocket"))
    };
    if !host_is_fine
        || !head::expectations_are_known(&lines)
        || options.len() > head::CONNECTION_OPTIONS
        || head::all(&lines, "upgrade").any(websocket)
        || (version == Version::Http10 && delimiter == Some(Err(Chunked)))
    {
        return None;
    }
    let framing = match delimiter {
        None => Framing::None,
        Some(Ok(length)) => Framing::Length(length),
        Some(Err(Chunked)) => Framing::Chunked,
    };
    let keep_alive = version == Version::Http11 && !options.iter().any(|option| option == "close");
    let (method, target) = (String::from_utf8(method.to_vec()).ok()?, target.to_vec());
    Some(Request { method, target, version, lines, framing, keep_alive, payload: None, has_trailers: false })
}

/// Whether every reader takes a target apart in the same way.
fn is_unambiguous(target: &[u8]) -> bool {
    if target.first() != Some(&b'/') || !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
        return false;
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let lower = String::from_utf8_lossy(path).to_ascii_lowercase();
    let model = path.starts_with(b"/v1/models/");
    let forbidden = ["..", "%2e", "%5c", "\\", "//", "/./"];
    // The slash of a model's name may be encoded, and is a slash then.
    let decoded = if model { lower.replace("%2f", "/") } else { lower.clone() };
    if forbidden.iter().any(|word| decoded.contains(word))
        || decoded.ends_with("/.")
        || decoded.contains("%2f")
    {
        return false;
    }
    let escapes = lower.split('%').skip(1);
    escapes.into_iter().all(|escape| {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        value.is_some_and(|value| value >= 0x20 && value != 0x7F)
    })
}

fn agrees(found: &RequestHead, text: &[u8], wanted: &Request) {
    assert_eq!(found.method, Method::from_token(wanted.method.as_bytes()));
    assert_eq!((found.target.of(text), found.version), (&wanted.target[..], wanted.version));
    let (path, query) = match wanted.target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&wanted.target[..at], Some(&wanted.target[at + 1..])),
        None => (&wanted.target[..], None),
    };
    assert_eq!((found.path.of(text), found.query.map(|query| query.of(text))), (path, query));
    assert_eq!((found.framing, found.keep_alive), (wanted.framing, wanted.keep_alive));
    let asks = wanted.version == Version::Http11 && head::all(&wanted.lines, "expect").next().is_some();
    assert_eq!(found.expect_continue, asks);
    assert_eq!(found.host.of(text), head::all(&wanted.lines, "host").next().unwrap_or_default());
    head::check_kinds(found.iter(text), &wanted.lines);
    let decoded = percent_decode(path).expect("an accepted path can be decoded");
    let escapes = path.iter().filter(|byte| **byte == b'%').count();
    assert_eq!(decoded.len(), path.len() - 2 * escapes);
}

/// Written again by our writer, the head reads the same.
fn written_again(head: &RequestHead, text: &[u8], limits: &Limits) {
    if head.method == Method::Other || head.version == Version::Http10 {
        return;
    }
    let mut out = Vec::new();
    assert!(write::request_line(&mut out, head.method.as_str(), &[head.target.of(text)]));
    for (name, value, _) in head.iter(text) {
        assert!(write::header_bytes(&mut out, name, value), "an accepted line cannot be written");
    }
    write::end_head(&mut out);
    let limits = Limits { head: out.len(), ..limits.clone() };
    let again = read_head([&out[..]], &limits).expect("what was accepted and written is accepted");
    assert_eq!((again.method, again.framing, again.keep_alive), (head.method, head.framing, head.keep_alive));
    assert_eq!((again.target.of(&out), again.len), (head.target.of(text), out.len()));
    assert!(again.iter(&out).eq(head.iter(text)), "other header lines");
}
