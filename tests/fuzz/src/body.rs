//! A body is taken apart the same way however it arrives, and as a naive reading of the whole of it says; what the
//! encoder writes, the decoder reads.

use obleth_wire::http1::{BodyDecoder, BodyError, Framing, Limits, Piece, write};

use crate::{head::tight, input::Input};

/// What was made of a body: its payload, and where it ended, if it did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) payload: Vec<u8>,
    pub(crate) end: Result<Option<usize>, BodyError>,
}

/// Text: a body. Option 0: tight limits. Options 1 and 2: chunked, or of a length, or until the close; options 3 to 7:
/// the length.
pub(crate) fn check(bytes: &[u8]) {
    let Some(input) = Input::of(bytes) else { return };
    let limits = if input.option(0) { tight() } else { Limits::default() };
    let framing = match input.options >> 1 & 3 {
        0 | 1 => Framing::Chunked,
        2 => Framing::Length(u64::from(input.options >> 3)),
        _ => Framing::UntilClose,
    };
    let whole = read([input.text], framing, &limits);
    assert_eq!(read(input.pieces(), framing, &limits), whole, "the cut of the reads shows");
    match framing {
        Framing::Chunked => agrees(&whole, input.text, &limits),
        Framing::Length(length) => {
            let taken = input.text.len().min(length as usize);
            let end = (taken == length as usize).then_some(taken);
            assert_eq!(whole, Reading { payload: input.text[..taken].to_vec(), end: Ok(end) });
        }
        _ => assert_eq!(whole, Reading { payload: input.text.to_vec(), end: Ok(None) }),
    }
    let mut chunked = Vec::new();
    input.pieces().into_iter().for_each(|piece| write::chunk(&mut chunked, piece));
    chunked.extend_from_slice(write::LAST_CHUNK);
    let read = read([&chunked[..]], Framing::Chunked, &limits);
    assert_eq!(read, Reading { payload: input.text.to_vec(), end: Ok(Some(chunked.len())) });
}

/// Decodes a body that arrives in pieces. Bytes behind its end are left alone.
pub(crate) fn read<'b>(
    pieces: impl IntoIterator<Item = &'b [u8]>,
    framing: Framing,
    limits: &Limits,
) -> Reading {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut payload, mut at) = (Vec::new(), 0);
    for mut piece in pieces {
        loop {
            let decoded = match decoder.decode(piece) {
                Ok(decoded) => decoded,
                Err(error) => return Reading { payload, end: Err(error) },
            };
            at += decoded.consumed;
            match decoded.piece {
                Piece::Data(range) => {
                    assert!(!range.is_empty() && range.end <= decoded.consumed);
                    payload.extend_from_slice(&piece[range]);
                }
                Piece::More => {
                    assert_eq!(decoded.consumed, piece.len(), "bytes were left behind");
                    break;
                }
                Piece::End => {
                    assert!(decoder.is_done() && decoder.at_eof().is_ok());
                    return Reading { payload, end: Ok(Some(at)) };
                }
            }
            piece = &piece[decoded.consumed..];
        }
    }
    if decoder.is_done() {
        return Reading { payload, end: Ok(Some(at)) };
    }
    assert_eq!(decoder.at_eof().is_ok(), framing == Framing::UntilClose, "a truncated body is complete");
    Reading { payload, end: Ok(None) }
}

/// A chunked body, read naively as a whole.
pub(crate) enum Chunked {
    /// Complete, with these trailer lines.
    Complete { payload: Vec<u8>, len: usize, has_trailers: bool },
    /// Not complete or not well-formed.
    Other,
}

/// Reads the chunked body at the start of `text`.
pub(crate) fn chunked(text: &[u8], limits: &Limits) -> Chunked {
    naive(text, limits).unwrap_or(Chunked::Other)
}

fn naive(text: &[u8], limits: &Limits) -> Option<Chunked> {
    let (mut payload, mut rest) = (Vec::new(), text);
    loop {
        let size_line = line(&mut rest)?;
        if size_line.len() > limits.chunk_line {
            return None;
        }
        let digits = size_line.split(|byte| *byte == b';').next()?;
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= rest.len())?;
        payload.extend_from_slice(&rest[..size]);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    let trailers = rest.len();
    let mut has_trailers = false;
    loop {
        let before = rest.len();
        let trailer = line(&mut rest)?;
        if trailer.is_empty() {
            let fits = trailers - before <= limits.trailers;
            let len = text.len() - rest.len();
            return fits.then_some(Chunked::Complete { payload, len, has_trailers });
        }
        if trailer.starts_with(b" ") || trailer.starts_with(b"\t") {
            return None;
        }
        has_trailers = true;
    }
}

/// The next line, which must end with CRLF and hold no control byte but tabs.
fn line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.windows(2).position(|window| window == b"\r\n")?;
    let (line, after) = rest.split_at(end);
    *rest = &after[2..];
    line.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7F)).then_some(line)
}

/// The decoder calls complete what the naive reading calls complete, with the same payload.
fn agrees(reading: &Reading, text: &[u8], limits: &Limits) {
    match chunked(text, limits) {
        Chunked::Complete { payload, len, .. } => {
            assert_eq!(*reading, Reading { payload, end: Ok(Some(len)) });
        }
        Chunked::Other => {
            assert!(!matches!(reading.end, Ok(Some(_))), "not a complete chunked body: {reading:?}")
        }
    }
}
