//! A client that sends exactly the bytes it is given and keeps exactly the bytes it gets, with their times.
//!
//! It exists because a real HTTP client would hide what is tested: framing, the moment of each read, how a
//! body ended. It reads responses by the same rules as any client, and never repeats or repairs anything.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::process::PATIENCE;

/// How the body of a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing announced.
    Complete,
    /// The connection was closed before that.
    Cut,
}

/// One read from the socket: when, and how much of the body it brought.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) raw: Vec<u8>,
}

/// A whole response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Each chunk's data, if the body came in chunks.
    pub(crate) chunks: Vec<Vec<u8>>,
    /// The reads that brought it, its head included.
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) end: End,
}

impl Response {
    /// The value of a header; the first one if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// `error.code`, empty if there is none.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The payloads of its events.
    pub(crate) fn events(&self) -> Vec<String> {
        events(&self.body)
    }
}

/// The payloads of the `data:` events in a stream.
pub(crate) fn events(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream).into_owned();
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// From now on this end's machine neither hears nor says anything, as if its cable had been pulled: the kernel drops
/// whatever comes before TCP sees it, so nothing is acknowledged.
pub(crate) fn silence(stream: &TcpStream) {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K: how much of the packet to keep
    let nothing = socket2::SockFilter::new(RETURN, 0, 0, 0);
    socket2::SockRef::from(stream).attach_filter(&[nothing]).unwrap();
}

/// A connection to one of the listeners.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Received and not yet part of a response.
    buf: Vec<u8>,
    arrivals: Vec<Arrival>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> Self {
        Self::try_open(to).unwrap()
    }

    pub(crate) fn try_open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buf: Vec::new(), arrivals: Vec::new() })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends as much as the other side takes; false if it stopped taking it.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.send(request.bytes());
        self.response()
    }

    /// Announces that nothing more will be sent.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes the connection with a FIN.
    pub(crate) fn close(self) {}

    /// Closes the connection with an RST.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// From now on its machine is silent; see [`silence`].
    pub(crate) fn fall_silent(&self) {
        silence(&self.stream);
    }

    /// Whether the other side closes the connection without sending anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buf.is_empty() && !self.fill()
    }

    /// One more read. False at the end of what the other side sends.
    fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 256 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(got) => {
                chunk.truncate(got);
                self.buf.extend_from_slice(&chunk);
                self.arrivals.push(Arrival { at: Instant::now(), raw: chunk });
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}; so far: {:?}", String::from_utf8_lossy(&self.buf))
            }
            Err(_) => false,
        }
    }

    /// Reads until what was received holds `needle`; fails if the connection ends first.
    pub(crate) fn read_until(&mut self, needle: &str) {
        while !self.buf.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            assert!(self.fill(), "ended before {needle:?}: {:?}", String::from_utf8_lossy(&self.buf));
        }
    }

    /// Waits for so long in each read, where an answer takes longer than tests usually wait.
    pub(crate) fn be_patient(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Reads whatever comes until so much time has passed, or the end.
    pub(crate) fn read_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(Some(left)).unwrap();
            if !matches!(self.stream.read(&mut [0; 16 * 1024]), Ok(1..)) {
                break;
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Everything received that is not yet part of a response.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.buf).into_owned()
    }

    /// Whether the other side ends the connection within a time; what it sends before is received.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(got @ 1..) => self.buf.extend_from_slice(&chunk[..got]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Ok(0) | Err(_) => return true,
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        false
    }

    /// Whether a request is answered with this status; a connection that ends instead is a no.
    pub(crate) fn answers(&mut self, request: &Request, status: u16) -> bool {
        self.try_send(request.bytes()) && self.try_response().is_some_and(|answer| answer.status == status)
    }

    /// Reads one response to a request that may have a body in its answer.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        self.try_response().expect("the connection was closed without an answer")
    }

    /// Reads one response; `None` if the connection is closed before its head is whole.
    pub(crate) fn try_response(&mut self) -> Option<Response> {
        let head = loop {
            if let Some(at) = self.buf.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.buf.drain(..at + 4).collect::<Vec<u8>>();
            }
            if !self.fill() {
                return None;
            }
        };
        let head = String::from_utf8(head).expect("the head is text");
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap();
        assert!(status_line.starts_with("HTTP/1.1 "), "{status_line}");
        let status = status_line[9..12].parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("a header without a colon: {line}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let arrivals = Vec::new();
        let mut response =
            Response { status, headers, body: Vec::new(), chunks: Vec::new(), arrivals, end: End::Cut };
        let whole = match (response.header("transfer-encoding"), response.header("content-length")) {
            (Some(coding), length) => {
                assert_eq!((coding, length), ("chunked", None), "one framing");
                self.chunked(&mut response)
            }
            (None, Some(length)) => {
                let length: usize = length.parse().unwrap();
                while self.buf.len() < length && self.fill() {}
                response.body = self.buf.drain(..length.min(self.buf.len())).collect();
                response.body.len() == length
            }
            (None, None) => status < 200 || status == 204,
        };
        response.end = if whole { End::Complete } else { End::Cut };
        response.arrivals = std::mem::take(&mut self.arrivals);
        Some(response)
    }

    /// Reads a body in chunks. False if it breaks off.
    fn chunked(&mut self, response: &mut Response) -> bool {
        loop {
            let line = loop {
                if let Some(at) = self.buf.windows(2).position(|window| window == b"\r\n") {
                    break self.buf.drain(..at + 2).collect::<Vec<u8>>();
                }
                if !self.fill() {
                    return false;
                }
            };
            let line = String::from_utf8(line).unwrap();
            let size =
                usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
            while self.buf.len() < size + 2 {
                if !self.fill() {
                    let had = self.buf.len().min(size);
                    response.body.extend(self.buf.drain(..had));
                    return false;
                }
            }
            let data: Vec<u8> = self.buf.drain(..size).collect();
            let end: Vec<u8> = self.buf.drain(..2).collect();
            assert_eq!(end, b"\r\n", "a chunk ends with CRLF");
            if size == 0 {
                return true;
            }
            response.body.extend_from_slice(&data);
            response.chunks.push(data);
        }
    }
}

/// A request that is well-formed unless a test makes it otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let headers = vec![("host".to_owned(), "gateway".to_owned())];
        Self { method: method.to_owned(), path: path.to_owned(), headers, body: None }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", path) }
    }

    /// The same with another method.
    pub(crate) fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// With `Authorization: Bearer`.
    pub(crate) fn key(self, secret: &str) -> Self {
        self.header("authorization", format!("Bearer {secret}"))
    }

    /// The head alone, announcing the body.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }

    /// Sends it on a connection of its own.
    pub(crate) fn to(&self, address: SocketAddr) -> Response {
        Connection::open(address).ask(self)
    }
}
