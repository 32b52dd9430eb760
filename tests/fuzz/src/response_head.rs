//! A response head is accepted exactly if a naive reading of the whole accepts it, and says the same of it.

use obleth_wire::http1::{Framing, HeadScan, Limits, Method, ResponseHead, Version, parse_response, write};

use crate::{
    head::{self, Chunked, Lines, tight},
    input::Input,
};

/// Text: what a backend sends. Option 0: tight limits; option 1: the request was HEAD.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    let limits = if input.option(0) { tight() } else { Limits::default() };
    let method = if input.option(1) { Method::Head } else { Method::Post };
    let whole = read([input.text], method, &limits);
    let pieces = read(input.pieces(), method, &limits);
    assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "the cut of the reads shows");
    let naive = naive(input.text, method, &limits);
    assert_eq!(whole.is_some(), naive.is_some(), "{whole:?} against {naive:?}");
    let (Some(found), Some(wanted)) = (whole, naive) else { return };
    assert_eq!((found.status, found.version, found.len), (wanted.status, wanted.version, wanted.len));
    assert_eq!((found.framing, found.keep_alive), (wanted.framing, wanted.keep_alive));
    head::check_kinds(found.iter(input.text), &wanted.lines);
    written_again(&found, input.text, method, &limits);
}

/// Reads a head that arrives in pieces; `None` if it is refused or not whole.
fn read<'b>(
    pieces: impl IntoIterator<Item = &'b [u8]>,
    method: Method,
    limits: &Limits,
) -> Option<ResponseHead> {
    let (mut scan, mut arrived) = (HeadScan::default(), Vec::new());
    for piece in pieces {
        arrived.extend_from_slice(piece);
        if let Some(len) = scan.find_end(&arrived, limits).ok()? {
            return parse_response(&arrived, len, method, limits).ok();
        }
    }
    None
}

#[derive(Debug)]
struct Naive {
    status: u16,
    version: Version,
    lines: Lines,
    framing: Framing,
    keep_alive: bool,
    len: usize,
}

fn naive(text: &[u8], method: Method, limits: &Limits) -> Option<Naive> {
    let cut = head::cut(text, 0, limits)?;
    let (start, rest) = cut.first.split_at_checked(9)?;
    let version = match start {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ => return None,
    };
    let (code, reason) = rest.split_at_checked(3)?;
    if !code.iter().all(u8::is_ascii_digit) || !(reason.is_empty() || reason.starts_with(b" ")) {
        return None;
    }
    if !reason.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7F)) {
        return None;
    }
    let status: u16 = str::from_utf8(code).ok()?.parse().ok().filter(|status| (100..600).contains(status))?;
    let lines = head::lines(&cut.rest)?;
    let delimiter = head::delimiter(&lines)?;
    let options = head::connection_options(&lines);
    let old_chunked = version == Version::Http10 && delimiter == Some(Err(Chunked));
    if options.len() > head::CONNECTION_OPTIONS || old_chunked || !head::expectations_are_known(&lines) {
        return None;
    }
    let bodiless = method == Method::Head || matches!(status, 100..=199 | 204 | 304);
    let framing = match delimiter {
        _ if bodiless => Framing::None,
        Some(Err(Chunked)) => Framing::Chunked,
        Some(Ok(length)) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let has = |option: &str| options.iter().any(|found| found == option);
    let announced = !matches!(delimiter, None | Some(Ok(0)));
    let keep_alive = !has("close")
        && (version == Version::Http11 || has("keep-alive"))
        && framing != Framing::UntilClose
        && !(announced && matches!(status, 100..=199 | 204));
    Some(Naive { status, version, lines, framing, keep_alive, len: cut.len })
}

/// Written again by our writer, the head reads the same.
fn written_again(head: &ResponseHead, text: &[u8], method: Method, limits: &Limits) {
    let mut out = Vec::new();
    write::status_line(&mut out, head.status);
    for (name, value, _) in head.iter(text) {
        assert!(write::header_bytes(&mut out, name, value), "an accepted line cannot be written");
    }
    write::end_head(&mut out);
    let limits = Limits { head: out.len(), request_line: 64, ..limits.clone() };
    let again = read([&out[..]], method, &limits).expect("what was accepted and written is accepted");
    assert_eq!((again.status, again.framing), (head.status, head.framing));
    assert!(again.iter(&out).eq(head.iter(text)), "other header lines");
}
