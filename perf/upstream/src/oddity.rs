//! Answers that no well-kept server gives, byte for byte as ill-kept ones send them.
//!
//! Each is a script: what is sent, where it pauses, how it ends. They are short (three tokens) and the same each time.
//! None of this goes through the codec's writer, which would not let most of it pass.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use crate::answer;
use crate::counters::Ending;
use crate::generate::{Job, Line};
use crate::socket::send;

/// What is odd about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// An interim answer of this status before the real one.
    Interim(u16),
    /// Five interim answers before the real one.
    InterimMany,
    /// A body that ends with the connection.
    CloseDelimited,
    /// The same, ending in its middle.
    CloseDelimitedCut,
    /// `content-length` says five bytes less than there are.
    LengthShort,
    /// `content-length` says five bytes more than come before the connection ends.
    LengthLong,
    /// `content-length: -1`.
    LengthNegative,
    /// Two different lengths.
    LengthTwice,
    /// A length and chunks.
    LengthAndChunks,
    /// A header of 16 KiB.
    Head16K,
    /// A header of 70 KiB.
    Head70K,
    /// 101 headers.
    Headers101,
    /// Chunks of seven bytes with extensions.
    ChunkExtensions,
    /// Trailers behind the last chunk.
    Trailers,
    /// A chunk size that is no number, in the middle.
    BadChunkSize,
    /// A chunk size past 64 bits, in the middle.
    HugeChunkSize,
    /// The body in gzip.
    Gzip,
    /// A stream whose only event is an error; a JSON answer that is an error.
    ErrorUnder200,
    /// A stream with an error behind two tokens, then `[DONE]`.
    ErrorEventLater,
    /// A stream that ends in good order without `[DONE]`.
    NoDone,
    /// `[DONE]`, and the body never ends.
    DoneWithoutEnd,
    /// An event behind `[DONE]`.
    EventAfterDone,
    /// JSON, whatever was asked for.
    JsonForStream,
    /// Events, whatever was asked for.
    StreamForJson,
    /// Bytes behind the end of the answer.
    Surplus,
    /// No HTTP.
    Garbage,
    /// HTTP/1.0, whose body ends with the connection.
    Http10,
    /// A status without a body.
    Bodiless(u16),
    /// A redirection to elsewhere.
    Redirect,
    /// The head comes byte by byte.
    DripHead,
    /// Nothing comes behind half a head.
    StallInHead,
    /// A reset in place of an answer.
    ResetBeforeHead,
    /// A reset behind half a head.
    ResetInHead,
    /// A reset behind half a body.
    ResetInBody,
    /// A reset behind the first event; a JSON answer, behind its head.
    ResetBetweenEvents,
}

/// Every oddity by its name.
pub(crate) const ODDITIES: [(&str, Oddity); 38] = [
    ("interim-100", Oddity::Interim(100)),
    ("interim-102", Oddity::Interim(102)),
    ("interim-103", Oddity::Interim(103)),
    ("interim-many", Oddity::InterimMany),
    ("close-delimited", Oddity::CloseDelimited),
    ("close-delimited-cut", Oddity::CloseDelimitedCut),
    ("length-short", Oddity::LengthShort),
    ("length-long", Oddity::LengthLong),
    ("length-negative", Oddity::LengthNegative),
    ("length-twice", Oddity::LengthTwice),
    ("length-and-chunks", Oddity::LengthAndChunks),
    ("head-16k", Oddity::Head16K),
    ("head-70k", Oddity::Head70K),
    ("headers-101", Oddity::Headers101),
    ("chunk-extensions", Oddity::ChunkExtensions),
    ("trailers", Oddity::Trailers),
    ("bad-chunk-size", Oddity::BadChunkSize),
    ("huge-chunk-size", Oddity::HugeChunkSize),
    ("gzip", Oddity::Gzip),
    ("error-under-200", Oddity::ErrorUnder200),
    ("error-event-later", Oddity::ErrorEventLater),
    ("no-done", Oddity::NoDone),
    ("done-without-end", Oddity::DoneWithoutEnd),
    ("event-after-done", Oddity::EventAfterDone),
    ("json-for-stream", Oddity::JsonForStream),
    ("stream-for-json", Oddity::StreamForJson),
    ("surplus", Oddity::Surplus),
    ("garbage", Oddity::Garbage),
    ("http-1.0", Oddity::Http10),
    ("no-content", Oddity::Bodiless(204)),
    ("not-modified", Oddity::Bodiless(304)),
    ("redirect", Oddity::Redirect),
    ("drip-head", Oddity::DripHead),
    ("stall-in-head", Oddity::StallInHead),
    ("reset-before-head", Oddity::ResetBeforeHead),
    ("reset-in-head", Oddity::ResetInHead),
    ("reset-in-body", Oddity::ResetInBody),
    ("reset-between-events", Oddity::ResetBetweenEvents),
];

/// Between the bytes of a head that drips.
const DRIP: Duration = Duration::from_millis(1);
/// Tokens of every answer here.
const TOKENS: [&str; 3] = ["one", " two", " three"];

/// How a script ends.
enum Then {
    /// The connection can be used again.
    Keep,
    Close,
    Reset,
    /// Nothing more comes until the peer leaves.
    Hang,
}

/// What is sent, and how it ends. `drip` bytes at the start come one by one.
struct Script {
    bytes: Vec<u8>,
    drip: usize,
    then: Then,
}

/// Plays an oddity. True if the connection can be used again.
pub(crate) async fn play(line: &mut Line<'_>, job: &Job, oddity: Oddity) -> io::Result<bool> {
    let Script { bytes, drip, then } = Text::new(job).script(oddity);
    let (slow, rest) = bytes.split_at_checked(drip).unwrap_or((&bytes, &[]));
    for byte in slow {
        send(line.stream, &[*byte]).await?;
        sleep(DRIP).await;
    }
    let tokens = TOKENS.len() as u64;
    if matches!(then, Then::Keep) {
        // Counted first: who has read the answer finds it counted.
        line.ticket.ends(Ending::Completed, tokens);
    }
    send(line.stream, rest).await?;
    match then {
        Then::Keep => return Ok(true),
        Then::Close => {}
        Then::Reset => line.stream.reset_at_close()?,
        Then::Hang => std::future::pending().await,
    }
    line.ticket.ends(Ending::Failed, tokens);
    Ok(false)
}

/// The texts that scripts are made of.
struct Text {
    stream: bool,
    json: String,
    events: Vec<String>,
}

impl Text {
    fn new(job: &Job) -> Self {
        let (ask, model) = (&job.ask, &job.model);
        let event = |choices: &str, more: &str| {
            format!(
                r#"data: {{"id":"chatcmpl-sim","object":"chat.completion.chunk","created":1700000000,"model":{model},"choices":[{choices}]{more}}}"#
            ) + "\n\n"
        };
        let mut events: Vec<String> = TOKENS
            .iter()
            .map(|token| {
                event(&format!(r#"{{"index":0,"delta":{{"content":"{token}"}},"finish_reason":null}}"#), "")
            })
            .collect();
        events.push(event(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, ""));
        if ask.include_usage {
            events.push(event("", r#","usage":{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3}"#));
        }
        let text = answer::json_string(&TOKENS.concat());
        Self { stream: ask.stream, json: answer::completion(ask, model, &text, 3, false), events }
    }

    fn sse(&self) -> String {
        self.events.concat() + "data: [DONE]\n\n"
    }

    fn script(&self, oddity: Oddity) -> Script {
        let body = if self.stream { self.sse() } else { self.json.clone() };
        let (length, half) = (body.len(), body.len() / 2);
        let sized = |length: usize, body: &str| self.ok(&format!("content-length: {length}\r\n"), body);
        let whole = sized(length, &body);
        let first_half = body.get(..half).unwrap_or_default();
        let chunked = |chunks: &str| self.ok("transfer-encoding: chunked\r\n", chunks);
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let error = r#"{"error":{"message":"CUDA out of memory","type":"InternalServerError","code":500}}"#;
        match oddity {
            Oddity::Interim(status) => keep(interim(status) + &whole),
            Oddity::InterimMany => keep([100, 103, 102, 103, 102].map(interim).concat() + &whole),
            Oddity::CloseDelimited => close(self.ok("", &body)),
            Oddity::CloseDelimitedCut => close(self.ok("", first_half)),
            Oddity::LengthShort => keep(sized(length.saturating_sub(5), &body)),
            Oddity::LengthLong => close(sized(length + 5, &body)),
            Oddity::LengthNegative => close(self.ok("content-length: -1\r\n", &body)),
            Oddity::LengthTwice => close(self.ok("content-length: 5\r\ncontent-length: 6\r\n", &body)),
            Oddity::LengthAndChunks => {
                close(self.ok("content-length: 5\r\ntransfer-encoding: chunked\r\n", &chunk(&body)))
            }
            Oddity::Head16K => keep(self.with_headers(&long_header(16 << 10), &body)),
            Oddity::Head70K => close(self.with_headers(&long_header(70 << 10), &body)),
            Oddity::Headers101 => close(self.with_headers(&"x-many: y\r\n".repeat(101), &body)),
            Oddity::ChunkExtensions => keep(chunked(&(small_chunks(&body) + "0;last=1\r\n\r\n"))),
            Oddity::Trailers => keep(chunked(&(chunk(&body) + "0\r\nx-trailer: a\r\nx-checksum: b\r\n\r\n"))),
            Oddity::BadChunkSize => close(chunked(&(chunk(first_half) + "zz\r\nmore\r\n"))),
            Oddity::HugeChunkSize => close(chunked(&(chunk(first_half) + "fffffffffffffffff\r\nmore\r\n"))),
            Oddity::Gzip => self.gzip(body.as_bytes()),
            Oddity::ErrorUnder200 if !self.stream => keep(sized(error.len(), error)),
            Oddity::ErrorUnder200 => keep(chunked(&(chunk(&format!("data: {error}\n\n")) + "0\r\n\r\n"))),
            Oddity::ErrorEventLater => {
                let tokens = self.events.iter().take(2).cloned().collect::<String>();
                let events = format!("{tokens}data: {error}\n\ndata: [DONE]\n\n");
                keep(chunked(&(chunk(&events) + "0\r\n\r\n")))
            }
            Oddity::NoDone => keep(sized(self.events.concat().len(), &self.events.concat())),
            Oddity::DoneWithoutEnd => script(chunked(&chunk(&body)), Then::Hang),
            Oddity::EventAfterDone => {
                let more = body + &self.events.concat();
                keep(sized(more.len(), &more))
            }
            Oddity::JsonForStream => {
                let json = Self { stream: false, json: self.json.clone(), events: Vec::new() };
                keep(json.with_headers("", &self.json))
            }
            Oddity::StreamForJson => {
                let sse = Self { stream: true, json: String::new(), events: Vec::new() };
                keep(sse.with_headers("", &self.sse()))
            }
            Oddity::Surplus => keep(whole + "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nleftover"),
            Oddity::Garbage => close("\u{16}\u{3}\u{1} this is no HTTP\r\n\r\n".to_owned()),
            Oddity::Http10 => close(self.ok("", &body).replacen("HTTP/1.1", "HTTP/1.0", 1)),
            Oddity::Bodiless(status) => keep(format!("HTTP/1.1 {status} Nothing\r\n\r\n")),
            Oddity::Redirect => keep(
                "HTTP/1.1 302 Found\r\nlocation: http://10.1.2.3/v1\r\ncontent-length: 0\r\n\r\n".to_owned(),
            ),
            Oddity::DripHead => Script { drip: whole.len() - length, ..keep(whole) },
            Oddity::StallInHead => script(whole.get(..40).unwrap_or_default().to_owned(), Then::Hang),
            Oddity::ResetBeforeHead => script(String::new(), Then::Reset),
            Oddity::ResetInHead => script(whole.get(..40).unwrap_or_default().to_owned(), Then::Reset),
            Oddity::ResetInBody => script(sized(length, first_half), Then::Reset),
            Oddity::ResetBetweenEvents => {
                let first = if self.stream { self.events.first().map_or("", String::as_str) } else { "" };
                script(sized(length, first), Then::Reset)
            }
        }
    }

    /// A head with these lines more, and a body behind it.
    fn ok(&self, lines: &str, body: &str) -> String {
        let kind = if self.stream { "text/event-stream" } else { "application/json" };
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{lines}\r\n{body}")
    }

    fn with_headers(&self, lines: &str, body: &str) -> String {
        self.ok(&format!("{lines}content-length: {}\r\n", body.len()), body)
    }

    fn gzip(&self, body: &[u8]) -> Script {
        let packed = gzip(body);
        let lines = format!("content-encoding: gzip\r\ncontent-length: {}\r\n", packed.len());
        let mut script = keep(self.ok(&lines, ""));
        script.bytes.extend_from_slice(&packed);
        script
    }
}

fn script(bytes: String, then: Then) -> Script {
    Script { bytes: bytes.into_bytes(), drip: 0, then }
}

fn keep(bytes: String) -> Script {
    script(bytes, Then::Keep)
}

fn close(bytes: String) -> Script {
    script(bytes, Then::Close)
}

fn interim(status: u16) -> String {
    let link = if status == 103 { "link: </style.css>; rel=preload\r\n" } else { "" };
    format!("HTTP/1.1 {status} Wait\r\n{link}\r\n")
}

fn long_header(bytes: usize) -> String {
    format!("x-long: {}\r\n", "a".repeat(bytes))
}

/// Chunks of seven bytes, wherever that cuts, each with an extension.
fn small_chunks(body: &str) -> String {
    let pieces = body.as_bytes().chunks(7);
    pieces
        .map(|piece| format!("{:x};name=\"v\"\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)))
        .collect()
}

/// RFC 1952 with one stored block: valid, and no smaller. `body` is shorter than 64 KiB.
fn gzip(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut crc = u32::MAX;
    for byte in body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF, 1];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::from(length).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_what_gunzip_expects() {
        // `printf hello | gzip -0`, but for the time and the system's number.
        let packed = gzip(b"hello");
        assert_eq!(packed.get(10..15), Some(&[1, 5, 0, 0xFA, 0xFF][..]));
        assert_eq!(packed.get(20..), Some(&[0x86, 0xA6, 0x10, 0x36, 5, 0, 0, 0][..]));
    }
}
