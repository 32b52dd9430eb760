//! Reads whatever a gateway that may be killed at any moment sends: answers, refusals, halves of them.
//!
//! It forgives everything but bytes that are no HTTP, and never takes half an answer for a whole one.

use anyhow::Result;
use obleth_wire::{
    http1::{BodyDecoder, Framing, HeadScan, Limits, Method, Piece, parse_response},
    sse::{EventScanner, data_lines},
};
use serde_json::Value;

use super::told::Refusal;

/// One connection's reader. Between answers it holds nothing.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A head that has not arrived whole.
    head: Vec<u8>,
    scan: HeadScan,
    body: Option<Body>,
    /// Tokens of the answer that is under way.
    tokens: u64,
}

#[derive(Debug)]
struct Body {
    status: u16,
    keeps: bool,
    decoder: BodyDecoder,
    /// Of a stream.
    events: Option<EventScanner>,
    /// An event, or the whole body if it is no stream.
    held: Vec<u8>,
    done: bool,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// None if it is what was asked for.
    pub(super) refusal: Option<Refusal>,
    pub(super) tokens: u64,
    /// Whether the connection can be used again.
    pub(super) keeps: bool,
}

impl Reader {
    /// Takes what one read brought; gives the answer once it is whole.
    ///
    /// # Errors
    /// It is no HTTP, or a stream that ended in good order without `[DONE]`.
    pub(super) fn take(&mut self, fresh: &[u8]) -> Result<Option<Whole>> {
        let limits = Limits::default();
        let mut rest = fresh;
        let held;
        if self.body.is_none() {
            self.head.extend_from_slice(fresh);
            let Some(len) = self.scan.find_end(&self.head, &limits)? else { return Ok(None) };
            held = std::mem::take(&mut self.head);
            self.scan = HeadScan::default();
            self.body = Some(Body::begin(&held, len, &limits)?);
            rest = held.get(len..).unwrap_or_default();
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let step = body.decoder.decode(rest)?;
            match step.piece {
                Piece::More => return Ok(None),
                Piece::End => break,
                Piece::Data(ref range) => {
                    self.tokens += body.take(rest.get(range.clone()).unwrap_or_default());
                }
            }
            rest = rest.get(step.consumed..).unwrap_or_default();
        }
        anyhow::ensure!(body.events.is_none() || body.done, "a stream ended without [DONE]");
        let (refusal, keeps) = (body.refusal(), body.keeps);
        self.body = None;
        Ok(Some(Whole { refusal, tokens: std::mem::take(&mut self.tokens), keeps }))
    }

    /// The connection is gone: tokens of what was under way, and whether nothing of it is missing but its last bytes.
    pub(super) fn give_up(&mut self) -> (u64, bool) {
        let done = self.body.as_ref().is_some_and(|body| body.done);
        let tokens = self.tokens;
        *self = Self::default();
        (tokens, done)
    }
}

impl Body {
    fn begin(bytes: &[u8], len: usize, limits: &Limits) -> Result<Self> {
        let head = parse_response(bytes, len, Method::Post, limits)?;
        let mut kinds = head.iter(bytes).filter(|(name, ..)| name.eq_ignore_ascii_case(b"content-type"));
        let streamed = kinds.any(|(_, value, _)| value.starts_with(b"text/event-stream"));
        Ok(Self {
            status: head.status,
            keeps: head.keep_alive && head.framing != Framing::UntilClose,
            decoder: BodyDecoder::new(head.framing, limits),
            events: streamed.then(EventScanner::default),
            held: Vec::new(),
            done: false,
        })
    }

    /// Takes a payload, and gives the tokens in it.
    fn take(&mut self, mut payload: &[u8]) -> u64 {
        let Some(scanner) = &mut self.events else {
            self.held.extend_from_slice(payload);
            return 0;
        };
        let mut tokens = 0;
        while let Some(end) = scanner.find_end(payload) {
            let (event, behind) = payload.split_at(end.len);
            self.held.extend_from_slice(event);
            let data = data_lines(&self.held).next().and_then(|range| self.held.get(range));
            self.done |= data == Some(b"[DONE]");
            tokens += u64::from(data.is_some_and(is_token));
            self.held.clear();
            payload = behind;
        }
        self.held.extend_from_slice(payload);
        tokens
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.status == 200 {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.held).unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or_default().into();
        Some(Refusal { status: self.status, code })
    }
}

/// Whether an event holds text of a chat.
fn is_token(data: &[u8]) -> bool {
    const CONTENT: &[u8] = br#""content":""#;
    let text = memchr::memmem::find(data, CONTENT).and_then(|at| data.get(at + CONTENT.len()));
    text.is_some_and(|first| *first != b'"')
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

    fn chunk(event: &str) -> String {
        format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2)
    }

    fn stream() -> String {
        let events = [
            r#"data: {"delta":{"role":"assistant","content":""}}"#,
            r#"data: {"delta":{"content":"a"}}"#,
            r#"data: {"delta":{"content":" b"}}"#,
            "data: [DONE]",
        ];
        format!("{STREAM}{}0\r\n\r\n", events.map(chunk).concat())
    }

    fn read(text: &str, size: usize) -> (Result<Option<Whole>>, Reader) {
        let mut reader = Reader::default();
        let mut last = Ok(None);
        for piece in text.as_bytes().chunks(size) {
            last = reader.take(piece);
        }
        (last, reader)
    }

    #[test]
    fn an_answer_is_the_same_in_whatever_pieces_it_arrives() {
        let text = stream();
        for size in 1..=text.len() {
            let whole = read(&text, size).0.unwrap().unwrap();
            assert_eq!(whole, Whole { refusal: None, tokens: 2, keeps: true }, "{size}");
        }
    }

    #[test]
    fn half_an_answer_is_never_whole_but_for_the_last_chunk() {
        let text = stream();
        let done = text.find("[DONE]").unwrap() + "[DONE]\n\n".len();
        for cut in STREAM.len()..text.len() {
            let (last, mut reader) = read(&text[..cut], cut);
            assert_eq!(last.unwrap(), None, "{cut}");
            assert_eq!(reader.give_up().1, cut >= done, "{cut}");
        }
    }

    #[test]
    fn a_refusal_is_read_with_its_code() {
        let text = "HTTP/1.1 404 Not Found\r\ncontent-length: 25\r\nconnection: close\r\n\r\n{\"error\":{\"code\":\"gone\"}} ";
        let (last, _) = read(&text[..text.len() - 1], 7);
        let refusal = Refusal { status: 404, code: "gone".into() };
        assert_eq!(last.unwrap(), Some(Whole { refusal: Some(refusal), tokens: 0, keeps: false }));
    }

    #[test]
    fn a_stream_that_ends_well_without_done_is_a_failure() {
        let text = format!("{STREAM}{}0\r\n\r\n", chunk("data: {}"));
        assert!(read(&text, 99).0.is_err());
    }
}
