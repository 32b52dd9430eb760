//! One connection of a generator: its socket, its reader, and the times of the request it carries.
//!
//! It never has two requests at once, and times them from when they were meant to leave.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use super::{
    answer::{AnswerReader, Frame, Progress},
    outcome::Outcome,
};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    reader: AnswerReader,
    /// Requests sent.
    pub(crate) sent: u64,
    under_way: Option<Exchange>,
}

/// A request and what has come of its answer.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    intended: Instant,
    /// Meant to leave within the window, so its times count.
    counts: bool,
    first: Option<Instant>,
    last: Option<Instant>,
    contents: u32,
}

impl Connection {
    pub(crate) fn open(target: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&target, CONNECT).context("cannot connect")?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, reader: AnswerReader::new(), sent: 0, under_way: None })
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether what is under way was meant to leave within the window.
    pub(crate) fn owes(&self) -> bool {
        self.under_way.is_some_and(|exchange| exchange.counts)
    }

    /// Sends a request that was meant to leave at `intended`.
    pub(crate) fn send(&mut self, request: &[u8], intended: Instant, counts: bool) -> Result<()> {
        let written = (&self.socket).write(request).context("cannot send")?;
        if written < request.len() {
            bail!("a request that does not fit into the socket");
        }
        self.sent += 1;
        self.under_way = Some(Exchange { intended, counts, first: None, last: None, contents: 0 });
        Ok(())
    }

    /// Takes what has arrived; the answer's length once it is complete. `counting`: the window is open.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        counting: bool,
        outcome: &mut Outcome,
    ) -> Result<Option<u64>> {
        let read = match (&self.socket).read(buffer) {
            Ok(0) => bail!("the connection was closed{}", if self.is_busy() { " in an answer" } else { "" }),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        let now = Instant::now();
        let Some(exchange) = &mut self.under_way else { bail!("bytes that nobody asked for") };
        let mut frames = 0;
        let fresh = buffer.get(..read).unwrap_or_default();
        let progress = self.reader.take(fresh, |frame| {
            frames += 1;
            if let Frame::Content(text) = frame {
                exchange.content(text, now, counting, outcome);
            }
        })?;
        if counting && frames > 0 {
            outcome.frames += frames;
            outcome.frame_reads += 1;
        }
        let Progress::Complete(bytes) = progress else { return Ok(None) };
        exchange.complete(now, outcome);
        outcome.all += 1;
        outcome.completed += u64::from(counting);
        self.under_way = None;
        Ok(Some(bytes))
    }
}

impl Exchange {
    fn content(&mut self, text: &[u8], now: Instant, counting: bool, outcome: &mut Outcome) {
        match self.last {
            None => {
                self.first = Some(now);
                if self.counts {
                    outcome.ttft.record(now - self.intended);
                }
            }
            Some(last) if counting => outcome.itl.record(now - last),
            Some(_) => {}
        }
        self.last = Some(now);
        self.contents += 1;
        if counting && let Some(stamp) = stamp(text) {
            let arrived = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            outcome.lateness.record(arrived.saturating_sub(stamp));
        }
    }

    fn complete(&self, now: Instant, outcome: &mut Outcome) {
        if !self.counts {
            return;
        }
        outcome.offered += 1;
        outcome.e2el.record(now - self.intended);
        if let (Some(first), Some(last), 2..) = (self.first, self.last, self.contents) {
            outcome.tpot.record((last - first) / (self.contents - 1));
        }
    }
}

/// The time in a content of `x-sim-stamp`: microseconds since the Unix epoch, and nothing else.
fn stamp(text: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(text).ok()?.trim();
    // A completion may hold a small number; a time of this century has 16 digits.
    if digits.len() < 16 { None } else { digits.parse().ok().map(Duration::from_micros) }
}
