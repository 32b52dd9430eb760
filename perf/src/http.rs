//! The few calls a measurement makes outside of load: set the gateway up, steer the backend.
//!
//! One connection per call; it must never be used to measure.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use obleth_wire::http1::{BodyDecoder, Framing, HeadScan, Limits, Method, Piece, parse_response};
use serde_json::Value;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One call: where to, what, and as whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) server: SocketAddr,
    /// `GET`, `POST` …
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Bearer token; may be empty.
    pub(crate) token: &'a str,
}

impl Call<'_> {
    /// Sends a body and gives that of the answer.
    ///
    /// # Errors
    /// No connection, or an answer that is not 2xx, with what it said.
    pub(crate) fn send(&self, body: &str) -> Result<Vec<u8>> {
        Ok(self.page(body)?.0)
    }

    /// The same, with the path and query of the list's next page, if there is one.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub(crate) fn page(&self, body: &str) -> Result<(Vec<u8>, Option<String>)> {
        let Self { server, method, path, token } = self;
        let mut socket = TcpStream::connect_timeout(server, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        whole(answer).with_context(|| format!("{method} {path}"))
    }

    /// Sends JSON and gives the JSON of the answer.
    ///
    /// # Errors
    /// As [`Call::send`], or the answer is no JSON.
    pub(crate) fn json(&self, body: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&self.send(&body.to_string())?)?)
    }
}

/// The body of an answer that came to its end, and where its `link` says that the next page is.
fn whole(mut answer: Vec<u8>) -> Result<(Vec<u8>, Option<String>)> {
    let limits = Limits::default();
    let len = HeadScan::default().find_end(&answer, &limits)?.context("no answer")?;
    let head = parse_response(&answer, len, Method::Post, &limits)?;
    let next = head
        .iter(&answer)
        .filter(|(name, ..)| name.eq_ignore_ascii_case(b"link"))
        .find_map(|(_, value, _)| next_page(std::str::from_utf8(value).ok()?));
    let (mut decoder, mut rest) = (BodyDecoder::new(head.framing, &limits), answer.split_off(len));
    let mut body = Vec::new();
    loop {
        let step = decoder.decode(&rest)?;
        match step.piece {
            Piece::Data(range) => body.extend_from_slice(rest.get(range).unwrap_or_default()),
            Piece::More if head.framing == Framing::UntilClose => break,
            Piece::More => bail!("half an answer"),
            Piece::End => break,
        }
        rest.drain(..step.consumed);
    }
    if !(200..300).contains(&head.status) {
        bail!("{} {}", head.status, String::from_utf8_lossy(&body));
    }
    Ok((body, next))
}

/// The target of the link with `rel="next"` (RFC 8288).
fn next_page(links: &str) -> Option<String> {
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// Posts JSON and gives the JSON of the answer.
///
/// # Errors
/// As [`Call::json`].
pub(crate) fn post(server: SocketAddr, path: &str, token: &str, body: &Value) -> Result<Value> {
    Call { server, method: "POST", path, token }.json(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let said = |text: &str| whole(text.into()).map(|(body, _)| String::from_utf8(body).unwrap());
        assert_eq!(said("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap(), "ok");
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\no";
        assert_eq!(said(&format!("{chunked}k\r\n0\r\n\r\n")).unwrap(), "ok");
        assert!(said(chunked).is_err());
        assert!(said("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").is_err());
        let refused = said("HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy").unwrap_err();
        assert_eq!(refused.to_string(), "503 busy");
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let text =
            "HTTP/1.1 200 OK\r\nLink: </a?limit=1&after=x>; rel=\"next\"\r\ncontent-length: 2\r\n\r\n[]";
        let (body, next) = whole(text.into()).unwrap();
        assert_eq!((body.as_slice(), next.as_deref()), (b"[]".as_slice(), Some("/a?limit=1&after=x")));
        assert_eq!(next_page("</a>; rel=\"prev\""), None);
    }
}
