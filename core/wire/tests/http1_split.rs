//! Properties of the HTTP/1 codec over generated and random bytes: how the bytes were split never matters, nothing
//! panics, and what it writes it reads back.

use obleth_wire::http1::{
    BodyDecoder, BodyError, Framing, HeadError, HeadScan, Limits, Method, Piece, parse_request,
    parse_response, write,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Limits small enough for generated messages to reach every one of them.
fn tight() -> Limits {
    Limits { request_line: 40, head: 160, headers: 6, chunk_line: 8, trailers: 16 }
}

/// What a message turned out to be: its head's length and framing, its payload, and where it ended; or the fault.
#[derive(Debug, PartialEq)]
enum Reading {
    Refused(HeadError),
    Waiting,
    Body { head: usize, framing: Framing, payload: Vec<u8>, end: Result<Option<usize>, BodyError> },
}

/// Reads one request as a connection would, with the bytes arriving in pieces that end at `cuts`.
fn read(message: &[u8], cuts: &[usize], limits: &Limits) -> Reading {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (message.len() + 1)).collect();
    ends.push(message.len());
    ends.sort_unstable();
    let mut scan = HeadScan::default();
    let mut body: Option<(usize, Framing, BodyDecoder)> = None;
    let (mut at, mut payload) = (0, Vec::new());
    for end in ends {
        let arrived = &message[..end];
        if body.is_none() {
            let head = match scan.find_end(arrived, limits) {
                Err(error) => return Reading::Refused(error),
                Ok(None) => continue,
                Ok(Some(len)) => parse_request(arrived, len, limits),
            };
            match head {
                Err(error) => return Reading::Refused(error),
                Ok(head) => {
                    at = head.len;
                    body = Some((head.len, head.framing, BodyDecoder::new(head.framing, limits)));
                }
            }
        }
        let Some((head, framing, decoder)) = &mut body else { unreachable!() };
        loop {
            let step = match decoder.decode(&arrived[at..]) {
                Ok(step) => step,
                Err(error) => {
                    return Reading::Body { head: *head, framing: *framing, payload, end: Err(error) };
                }
            };
            if let Piece::Data(range) = &step.piece {
                assert!(range.end <= step.consumed && !range.is_empty());
                payload.extend_from_slice(&arrived[at..][range.clone()]);
            }
            at += step.consumed;
            match step.piece {
                Piece::Data(_) => {}
                Piece::More => break,
                Piece::End => {
                    return Reading::Body { head: *head, framing: *framing, payload, end: Ok(Some(at)) };
                }
            }
        }
        assert_eq!(at, end, "the decoder left bytes behind");
    }
    match body {
        None => Reading::Waiting,
        Some((head, framing, _)) => Reading::Body { head, framing, payload, end: Ok(None) },
    }
}

prop_compose! {
    fn payload()(chunks in vec(vec(any::<u8>(), 1..40), 0..6)) -> Vec<Vec<u8>> { chunks }
}

prop_compose! {
    fn line()(name in "[A-Za-z-]{1,12}", value in "[ -~]{0,30}") -> String { format!("x{name}: {value}\r\n") }
}

/// A request that is valid unless a limit or a dice roll says otherwise.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let ext = prop_oneof![4 => Just(String::new()), 1 => "[a-z;=]{1,9}".prop_map(|text| format!(";{text}"))];
    let trailers = vec("[a-z]{1,6}: [ -~]{0,6}\r\n", 0..3);
    ("\r?\n?[a-z]{0,30}", vec(line(), 0..7), payload(), any::<u8>(), ext, trailers).prop_map(
        |(start, lines, chunks, shape, ext, trailers)| {
            let path = start.trim_start_matches(['\r', '\n']);
            let lead = if shape & 1 == 0 { "" } else { "\r\n" };
            let mut out =
                format!("{lead}POST /{path} HTTP/1.1\r\nhost: a\r\n{}", lines.concat()).into_bytes();
            if shape & 2 == 0 {
                let size: usize = chunks.iter().map(Vec::len).sum();
                write::header_u64(&mut out, "content-length", size as u64);
                write::end_head(&mut out);
                out.extend(chunks.concat());
            } else {
                write::header(&mut out, "transfer-encoding", b"chunked");
                write::end_head(&mut out);
                for chunk in chunks {
                    out.extend(format!("{:x}{ext}\r\n", chunk.len()).into_bytes());
                    out.extend(chunk);
                    write::chunk_tail(&mut out);
                }
                out.extend(format!("0\r\n{}\r\n", trailers.concat()).into_bytes());
            }
            out.extend_from_slice(b"GET /next HTTP/1.1\r\n");
            out
        },
    )
}

/// A message with a few bytes replaced, inserted or removed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n\0 \t:;,%./#?0fF\x7f".to_vec())];
    (message(), vec((any::<prop::sample::Index>(), byte, 0..3_u8), 0..4)).prop_map(|(mut bytes, edits)| {
        for (place, byte, edit) in edits {
            let at = place.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_message_reads_the_same(bytes in mutated(), cuts in vec(any::<usize>(), 0..12)) {
        for limits in [Limits::default(), tight()] {
            prop_assert_eq!(read(&bytes, &cuts, &limits), read(&bytes, &[], &limits));
        }
    }

    #[test]
    fn byte_by_byte_reads_the_same_as_whole(bytes in mutated()) {
        let every: Vec<usize> = (0..=bytes.len()).collect();
        for limits in [Limits::default(), tight()] {
            prop_assert_eq!(read(&bytes, &every, &limits), read(&bytes, &[], &limits));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), len in 0..500_usize) {
        for limits in [Limits::default(), tight()] {
            let _ = parse_request(&bytes, len, &limits);
            let _ = parse_response(&bytes, len, Method::Get, &limits);
            let _ = read(&bytes, &[len], &limits);
            for framing in [Framing::Chunked, Framing::Length(7), Framing::UntilClose, Framing::None] {
                let _ = BodyDecoder::new(framing, &limits).decode(&bytes);
            }
        }
    }

    #[test]
    fn mutated_messages_never_panic(bytes in mutated()) {
        for len in [bytes.len(), bytes.len() / 2] {
            if let Ok(head) = parse_request(&bytes, len, &Limits::default()) {
                prop_assert!(head.path.of(&bytes).starts_with(b"/"));
                prop_assert!(head.iter(&bytes).all(|(name, _, _)| !name.is_empty()));
            }
            let _ = parse_response(&bytes, len, Method::Get, &Limits::default());
        }
    }

    #[test]
    fn chunks_written_are_chunks_read(chunks in payload()) {
        let mut bytes = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let head = bytes.len();
        for chunk in &chunks {
            write::chunk(&mut bytes, chunk);
            write::chunk(&mut bytes, b"");
        }
        bytes.extend_from_slice(write::LAST_CHUNK);
        let end = Ok(Some(bytes.len()));
        let whole = Reading::Body { head, framing: Framing::Chunked, payload: chunks.concat(), end };
        prop_assert_eq!(read(&bytes, &[], &Limits::default()), whole);
    }

    #[test]
    fn a_written_head_is_parsed_as_written(
        lines in vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", "[ -~]{0,30}"), 0..8), status in 200..600_u16,
    ) {
        let mut out = Vec::new();
        write::status_line(&mut out, status);
        for (name, value) in &lines {
            let name = format!("y-{name}");
            prop_assert!(write::header_bytes(&mut out, name.as_bytes(), value.as_bytes()));
        }
        write::end_head(&mut out);
        let len = HeadScan::default().find_end(&out, &Limits::default()).unwrap().unwrap();
        let head = parse_response(&out, len, Method::Get, &Limits::default()).unwrap();
        prop_assert_eq!((head.status, head.len), (status, out.len()));
        let read: Vec<_> = head.iter(&out).map(|(name, value, _)| (name.to_vec(), value.to_vec())).collect();
        let written: Vec<_> = lines.iter()
            .map(|(name, value)| (format!("y-{name}").into_bytes(), value.trim_matches(' ').as_bytes().to_vec())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn nothing_written_ends_a_line_early(name in vec(any::<u8>(), 0..8), value in vec(any::<u8>(), 0..20)) {
        let mut out = Vec::new();
        let written = write::header_bytes(&mut out, &name, &value) | write::request_line(&mut out, "GET", &[&value]);
        let breaks = out.iter().filter(|byte| matches!(byte, b'\n' | b'\r' | 0)).count();
        prop_assert!(breaks.is_multiple_of(2) && breaks <= 4);
        prop_assert_eq!(written, !out.is_empty());
    }
}

#[test]
fn a_scan_never_goes_back_over_bytes_it_has_judged() {
    // Each byte is overwritten with NUL, which would be refused, once the scan was given it; only a CR whose LF has
    // not come may be looked at again.
    let line = format!("X: {}\r\n", "b".repeat(600));
    let mut bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", line.repeat(90)).into_bytes();
    let mut scan = HeadScan::default();
    for end in 1..bytes.len() {
        assert_eq!(scan.find_end(&bytes[..end], &Limits::default()), Ok(None));
        if bytes[end - 1] != b'\r' {
            bytes[end - 1] = 0;
        }
        if end > 1 {
            bytes[end - 2] = 0;
        }
    }
    assert_eq!(scan.find_end(&bytes, &Limits::default()), Ok(Some(bytes.len())));
    assert!(bytes.len() > 50 << 10);
}

#[test]
fn chunk_sizes_are_written_in_hexadecimal() {
    for size in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, usize::MAX] {
        let mut out = Vec::new();
        write::chunk_head(&mut out, size);
        assert_eq!(out, format!("{size:x}\r\n").into_bytes());
    }
}

#[test]
fn values_that_would_inject_are_left_out() {
    let mut out = Vec::new();
    for value in [&b"a\r\nb: c"[..], b"a\nb", b"a\rb", b"a\0b"] {
        assert!(!write::header(&mut out, "x", value));
    }
    for name in ["", "a b", "a:", "a\r\nb", "é"] {
        assert!(!write::header_bytes(&mut out, name.as_bytes(), b"v"));
    }
    for path in [&b""[..], b"/a b", b"/a\r\nX: y", b"/a\0"] {
        assert!(!write::request_line(&mut out, "GET", &[path]));
    }
    assert!(!write::request_line(&mut out, "GET /", &[b"/"]));
    assert!(out.is_empty());
    assert!(write::request_line(&mut out, "GET", &[b"/a", b"?b=c"]));
    write::status_line(&mut out, 599);
    assert_eq!(out, b"GET /a?b=c HTTP/1.1\r\nHTTP/1.1 599 \r\n");
}
