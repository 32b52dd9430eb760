//! Reads answers strictly: what is not a complete 200 is a failure, and a failure ends the run.
//!
//! A generator that forgives measures how fast errors are. It must never count an answer that is short, cut, of
//! another length than its siblings, or a stream without its `[DONE]`.

use anyhow::{Result, bail};
use obleth_wire::{
    http1::{BodyDecoder, Framing, HeadScan, Limits, Method, Piece, parse_response},
    sse::{EventScanner, data_lines},
};

/// How much of a refusal's body a failure quotes.
const QUOTED: usize = 160;

/// One connection's reader. Between answers it holds nothing.
#[derive(Debug)]
pub(crate) struct AnswerReader {
    limits: Limits,
    /// A head that has not arrived whole.
    head: Vec<u8>,
    scan: HeadScan,
    body: Option<Body>,
    queue_ms: Option<u32>,
    /// An event that has not arrived whole.
    event: Vec<u8>,
}

#[derive(Debug)]
struct Body {
    decoder: BodyDecoder,
    events: Option<EventScanner>,
    bytes: u64,
    done: bool,
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More of it has to come.
    More,
    /// It is complete; its body had so many bytes.
    Complete(u64),
}

/// Something a stream said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// The data of an event that is not content: a role, a finish reason, usage, the end.
    Other,
    /// The text of an event with content, as it stands in the JSON.
    Content(&'a [u8]),
}

/// Milliseconds that a request waited for a slot, as the gateway says in the head of its answer.
const QUEUED: &str = "x-obleth-queue-ms";

impl AnswerReader {
    pub(crate) fn new() -> Self {
        Self {
            limits: Limits::default(),
            head: Vec::new(),
            scan: HeadScan::default(),
            body: None,
            queue_ms: None,
            event: Vec::new(),
        }
    }

    /// What the head of the last answer said about its wait.
    pub(crate) fn queue_ms(&self) -> Option<u32> {
        self.queue_ms
    }

    /// Takes what one read brought. `on_frame` is called for every event of a stream.
    ///
    /// # Errors
    /// Whatever is not a complete answer with status 200, and bytes nobody asked for.
    pub(crate) fn take(&mut self, fresh: &[u8], mut on_frame: impl FnMut(Frame<'_>)) -> Result<Progress> {
        let mut rest = fresh;
        let held;
        if self.body.is_none() {
            if !self.head.is_empty() {
                self.head.extend_from_slice(fresh);
                held = std::mem::take(&mut self.head);
                rest = &held;
            }
            let Some(len) = self.scan.find_end(rest, &self.limits)? else {
                self.head = rest.to_vec();
                return Ok(Progress::More);
            };
            self.queue_ms = None;
            self.body = Some(begin(rest, len, &self.limits, &mut self.queue_ms)?);
            self.scan = HeadScan::default();
            rest = rest.get(len..).unwrap_or_default();
        }
        let Some(body) = &mut self.body else { return Ok(Progress::More) };
        loop {
            let step = body.decoder.decode(rest)?;
            let payload = match step.piece {
                Piece::More => return Ok(Progress::More),
                Piece::End if step.consumed < rest.len() => bail!("bytes behind the end of an answer"),
                Piece::End => break,
                Piece::Data(ref range) => rest.get(range.clone()).unwrap_or_default(),
            };
            body.bytes += payload.len() as u64;
            if let Some(scanner) = &mut body.events {
                body.done |= events(scanner, &mut self.event, payload, &mut on_frame);
            }
            rest = rest.get(step.consumed..).unwrap_or_default();
        }
        if body.events.is_some() && !body.done {
            bail!("a stream ended without [DONE]");
        }
        let bytes = body.bytes;
        self.body = None;
        Ok(Progress::Complete(bytes))
    }
}

/// Judges the head of an answer.
fn begin(bytes: &[u8], len: usize, limits: &Limits, queue_ms: &mut Option<u32>) -> Result<Body> {
    let head = parse_response(bytes, len, Method::Post, limits)?;
    if head.status != 200 {
        let body = bytes.get(len..).unwrap_or_default();
        let body = String::from_utf8_lossy(body.get(..body.len().min(QUOTED)).unwrap_or_default());
        bail!("status {}: {}", head.status, body.trim());
    }
    if head.framing == Framing::UntilClose || !head.keep_alive {
        bail!("an answer that ends its connection");
    }
    let queued = head.iter(bytes).find(|(name, ..)| name.eq_ignore_ascii_case(QUEUED.as_bytes()));
    *queue_ms = queued.and_then(|(_, value, _)| std::str::from_utf8(value).ok()?.parse().ok());
    let mut kinds = head.iter(bytes).filter(|(name, ..)| name.eq_ignore_ascii_case(b"content-type"));
    let streamed = kinds.any(|(_, value, _)| value.starts_with(b"text/event-stream"));
    let decoder = BodyDecoder::new(head.framing, limits);
    Ok(Body { decoder, events: streamed.then(EventScanner::default), bytes: 0, done: false })
}

/// Cuts events out of a payload. True if the last of all events was among them.
fn events(
    scanner: &mut EventScanner,
    held: &mut Vec<u8>,
    payload: &[u8],
    on_frame: &mut impl FnMut(Frame<'_>),
) -> bool {
    let (mut rest, mut done) = (payload, false);
    while let Some(end) = scanner.find_end(rest) {
        let (event, behind) = rest.split_at(end.len);
        if held.is_empty() {
            done |= frame(event, on_frame);
        } else {
            held.extend_from_slice(event);
            done |= frame(held, on_frame);
            held.clear();
        }
        rest = behind;
    }
    held.extend_from_slice(rest);
    done
}

/// Tells one event. True if it is `[DONE]`.
fn frame(event: &[u8], on_frame: &mut impl FnMut(Frame<'_>)) -> bool {
    const CONTENT: &[u8] = br#""content":""#;
    let Some(data) = data_lines(event).next().and_then(|range| event.get(range)) else { return false };
    let content = memchr::memmem::find(data, CONTENT).and_then(|at| data.get(at + CONTENT.len()..));
    let text = content.and_then(|text| text.split(|byte| *byte == b'"').next());
    match text {
        Some(text) if !text.is_empty() => on_frame(Frame::Content(text)),
        _ => on_frame(Frame::Other),
    }
    data == b"[DONE]"
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"a\":\"b c\"}";

    fn stream(events: &[&str]) -> Vec<u8> {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        for event in events {
            bytes.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// The text frames and the end, fed in pieces of `size` bytes.
    fn read(bytes: &[u8], size: usize) -> Result<(Vec<String>, usize, Progress)> {
        let (mut reader, mut texts, mut others) = (AnswerReader::new(), Vec::new(), 0);
        let mut last = Progress::More;
        for piece in bytes.chunks(size) {
            last = reader.take(piece, |frame| match frame {
                Frame::Content(text) => texts.push(String::from_utf8_lossy(text).into_owned()),
                Frame::Other => others += 1,
            })?;
        }
        Ok((texts, others, last))
    }

    #[test]
    fn an_answer_is_the_same_in_whatever_pieces_it_arrives() {
        let events = [
            "data: {\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}\n\n",
            "data: {\"delta\":{\"content\":\"1700\"}}\n\n",
            ": a comment\n\n",
            "data: {\"delta\":{\"content\":\" b\"}}\n\ndata: [DONE]\n\n",
        ];
        let bytes = stream(&events);
        for size in 1..=bytes.len() {
            let (texts, others, last) = read(&bytes, size).unwrap();
            assert_eq!((texts, others), (vec!["1700".to_owned(), " b".to_owned()], 2), "{size}");
            assert!(matches!(last, Progress::Complete(_)), "{size}");
            assert_eq!(read(JSON, size.min(JSON.len())).unwrap().2, Progress::Complete(11));
        }
    }

    #[test]
    fn the_wait_is_read_from_the_head_of_its_own_answer() {
        let text =
            String::from_utf8_lossy(JSON).replace("content-type", "X-Obleth-Queue-Ms: 17\r\ncontent-type");
        let mut reader = AnswerReader::new();
        reader.take(text.as_bytes(), |_| {}).unwrap();
        assert_eq!(reader.queue_ms(), Some(17));
        reader.take(JSON, |_| {}).unwrap();
        assert_eq!(reader.queue_ms(), None);
    }

    #[test]
    fn a_short_answer_is_never_complete() {
        let bytes = stream(&["data: [DONE]\n\n"]);
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut], cut).unwrap().2, Progress::More, "{cut}");
        }
        assert_eq!(read(&JSON[..JSON.len() - 1], 16).unwrap().2, Progress::More);
    }

    #[test]
    fn what_is_not_a_whole_200_is_a_failure() {
        let refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno".as_slice();
        assert_eq!(read(refused, 999).unwrap_err().to_string(), "status 503: no");
        let endless = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
        assert!(read(endless, 999).is_err());
        assert!(read(&stream(&["data: {}\n\n"]), 999).unwrap_err().to_string().contains("[DONE]"));
        assert!(read(b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", 999).is_err());
    }
}
