//! A naive reading of a whole head by the rules of RFC 9112 and of the gateway: the judge of the strict parser.
//!
//! It exists to be obviously right: it looks at whole lines, copies everything and knows no limit of its own.

use obleth_wire::http1::{HeaderKind, Limits};

/// Names (in lower case) and values of header lines, in their order.
pub(crate) type Lines = Vec<(String, Vec<u8>)>;

/// A head cut into its first line and its header lines, and how many bytes it takes.
pub(crate) struct Cut<'b> {
    pub(crate) first: &'b [u8],
    pub(crate) rest: Vec<&'b [u8]>,
    pub(crate) len: usize,
}

/// Limits small enough for short inputs to reach each of them.
pub(crate) fn tight() -> Limits {
    Limits { request_line: 40, head: 160, headers: 6, chunk_line: 8, trailers: 16 }
}

/// Cuts the head at the start of `text`, behind up to `leading` empty lines. `None` if it has no end, a line end in it
/// is not CRLF, it holds a NUL, or a limit is passed.
pub(crate) fn cut<'b>(text: &'b [u8], leading: usize, limits: &Limits) -> Option<Cut<'b>> {
    let mut start = 0;
    while start < 2 * leading && text[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let end = start + text[start..].windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut rest = Vec::new();
    let mut lines = text[start..end].split(|byte| *byte == b'\n');
    let last = lines.clone().count() - 1;
    for (at, line) in lines.by_ref().enumerate() {
        let line = if at == last { line } else { line.strip_suffix(b"\r")? };
        if line.contains(&b'\r') || line.contains(&0) {
            return None;
        }
        rest.push(line);
    }
    let first = rest.remove(0);
    let len = end + 4;
    let fits = first.len() <= limits.request_line && rest.len() <= limits.headers && len <= limits.head;
    (fits && !first.is_empty()).then_some(Cut { first, rest, len })
}

/// Reads header lines: a token, a colon at once, and a value of text.
pub(crate) fn lines(raw: &[&[u8]]) -> Option<Lines> {
    let line = |line: &&[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let text = |byte: &u8| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7F);
        if !is_token(name) || !value.iter().all(text) {
            return None;
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |at| at + 1);
        Some((String::from_utf8(name.to_ascii_lowercase()).ok()?, value[from..to].to_vec()))
    };
    raw.iter().map(line).collect()
}

/// A token (RFC 9110 §5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let symbols = b"!#$%&'*+-.^_`|~";
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || symbols.contains(byte))
}

/// The values of all lines called `name`.
pub(crate) fn all<'l>(lines: &'l Lines, name: &'l str) -> impl Iterator<Item = &'l [u8]> {
    lines.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_slice())
}

/// The options of all `connection` lines, in lower case.
pub(crate) fn connection_options(lines: &Lines) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).to_ascii_lowercase();
    let values: Vec<String> = all(lines, "connection").map(text).collect();
    let options = values.iter().flat_map(|value| value.split(','));
    options.map(|option| option.trim_matches([' ', '\t']).to_owned()).filter(|o| !o.is_empty()).collect()
}

/// What the lines say of the body: `Some(None)` nothing, `Some(Some(Ok(length)))`, `Some(Some(Err(Chunked)))`; `None`
/// if two readers could understand them differently.
pub(crate) fn delimiter(lines: &Lines) -> Option<Option<Result<u64, Chunked>>> {
    let lengths: Vec<_> = all(lines, "content-length").collect();
    let codings: Vec<_> = all(lines, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(None),
        ([length], []) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = digits.then(|| str::from_utf8(length).ok()?.parse().ok())??;
            Some(Some(Ok(length)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Some(Some(Err(Chunked))),
        _ => None,
    }
}

/// The body is in the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunked;

/// The most `connection` options that a head may have.
pub(crate) const CONNECTION_OPTIONS: usize = 32;

/// Whether `expect` lines, if there are any, all ask for 100-continue.
pub(crate) fn expectations_are_known(lines: &Lines) -> bool {
    all(lines, "expect").all(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// No header that ends here or carries a credential is passed on, whatever the `connection` lines say.
pub(crate) fn check_kinds<'h>(found: impl Iterator<Item = (&'h [u8], &'h [u8], HeaderKind)>, lines: &Lines) {
    let options = connection_options(lines);
    let mut count = 0;
    for ((name, value, kind), (wanted, text)) in found.zip(lines) {
        assert!(name.eq_ignore_ascii_case(wanted.as_bytes()) && value == text, "{name:?} is not {wanted}");
        let ends_here = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
        let secret = ["authorization", "x-api-key", "api-key", "cookie", "set-cookie"];
        let own = ["host", "content-length", "accept-encoding"];
        let kept = ends_here.iter().chain(&secret).chain(&own).any(|kept| kept == wanted)
            || wanted.starts_with("proxy-")
            || wanted.starts_with("x-obleth-")
            || options.contains(wanted);
        assert!(!(kept && kind.goes_upstream()), "{wanted} would go upstream");
        let private = ends_here.iter().chain(&secret).any(|kept| kept == wanted) || options.contains(wanted);
        assert!(!(private && kind.comes_back()), "{wanted} would come back");
        count += 1;
    }
    assert_eq!(count, lines.len(), "a header line is missing");
}
