//! The table of which bodies the HTTP/1 codec takes and which it refuses: one row per rule, with both sides.
//!
//! A body that ends where its sender did not end it is the start of somebody else's request.

use obleth_wire::http1::{BodyDecoder, BodyError, Framing, Limits, Piece};

fn decode(body: &[u8]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked, &Limits::default());
    let (mut at, mut payload) = (0, Vec::new());
    loop {
        let step = decoder.decode(&body[at..])?;
        if let Piece::Data(range) = step.piece.clone() {
            payload.extend_from_slice(&body[at..][range]);
        }
        at += step.consumed;
        match step.piece {
            Piece::End => return Ok((payload, at)),
            Piece::More => return decoder.at_eof().map(|()| (payload, at)),
            Piece::Data(_) => {}
        }
    }
}

#[test]
fn chunks_with_extensions_and_trailers_are_read_and_end_where_they_should() {
    for body in [
        &b"3\r\nabc\r\n0\r\n\r\n"[..],
        b"3;a=b;c=\"d\"\r\nabc\r\n0;last\r\n\r\n",
        b"0000000000000003\r\nabc\r\n000\r\n\r\n",
        b"1\r\na\r\n2\r\nbc\r\n0\r\nX-Trailer: 1\r\nY: 2\r\n\r\n",
    ] {
        let and_more = [body, b"GET / HTTP/1.1"].concat();
        assert_eq!(decode(&and_more), Ok((b"abc".to_vec(), body.len())));
    }
    assert_eq!(decode(b"0\r\n\r\n"), Ok((Vec::new(), 5)));
    assert_eq!(decode(b"A\r\n0123456789\r\n0\r\n\r\n").unwrap().0.len(), 10);
}

#[test]
fn malformed_chunks_are_refused() {
    for body in [
        &b"\r\n"[..],
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"1 \r\na\r\n",
        b"0x1\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\na\rb",
        b"1\ra",
        b"00000000000000001\r\n",
        b"fffffffffffffffff\r\n",
        b";x\r\n",
        b"1;a\nb\r\n",
        b"1;\0\r\n",
        b"1;a\rb",
        b"0\r\nX: y\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: \0\r\n\r\n",
    ] {
        assert!(matches!(decode(body), Err(BodyError::BadChunk(_))), "{:?}", body.escape_ascii().to_string());
    }
    let huge = decode(b"ffffffffffffffff\r\nabc");
    assert_eq!(huge, Err(BodyError::Truncated));
}

#[test]
fn chunk_lines_and_trailers_have_exact_limits() {
    let line = |size: usize| decode(format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(size - 2)).as_bytes());
    assert!(line(128).is_ok());
    assert_eq!(line(129), Err(BodyError::ChunkLineTooLong));
    let trailer = |size: usize| decode(format!("0\r\nX: {}\r\n\r\n", "t".repeat(size - 5)).as_bytes());
    assert!(trailer(8 << 10).is_ok());
    assert_eq!(trailer((8 << 10) + 1), Err(BodyError::TrailersTooLarge));
}

#[test]
fn a_truncated_body_is_never_complete() {
    let whole = b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nT: 1\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(decode(&whole[..end]), Err(BodyError::Truncated), "cut at {end}");
    }
    let mut decoder = BodyDecoder::new(Framing::Length(3), &Limits::default());
    assert_eq!(decoder.remaining(), Some(3));
    decoder.decode(b"ab").unwrap();
    assert_eq!((decoder.remaining(), decoder.at_eof()), (Some(1), Err(BodyError::Truncated)));
    let last = decoder.decode(b"cGET").unwrap();
    assert_eq!((last.consumed, last.piece), (1, Piece::Data(0..1)));
    assert!(decoder.is_done());
    assert_eq!(decoder.decode(b"GET").unwrap().piece, Piece::End);
    let mut unframed = BodyDecoder::new(Framing::UntilClose, &Limits::default());
    assert_eq!(unframed.decode(b"abc").unwrap().piece, Piece::Data(0..3));
    assert_eq!((unframed.at_eof(), unframed.is_done()), (Ok(()), false));
    for empty in [Framing::None, Framing::Length(0)] {
        assert!(BodyDecoder::new(empty, &Limits::default()).is_done());
    }
}
