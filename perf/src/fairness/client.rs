//! One connection of a tenant: the request it carries and what has come of the answer.
//!
//! It never has two requests at once. A request that is given up is a closed connection, as when a user leaves.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::load::{AnswerReader, Frame, Progress};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: TcpStream,
    reader: AnswerReader,
    under_way: Option<Exchange>,
}

/// A request that has no whole answer yet.
#[derive(Clone, Debug)]
struct Exchange {
    /// When it was meant to leave.
    intended: Instant,
    answered: bool,
}

/// What one read brought.
#[derive(Clone, Debug, Default)]
pub(super) struct Brought {
    pub(super) tokens: u32,
    /// The answer began with this read.
    pub(super) first: Option<First>,
    /// The answer is complete.
    pub(super) complete: bool,
}

/// The first token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    pub(super) intended: Instant,
    /// What the gateway says that the request waited.
    pub(super) queue_ms: Option<u32>,
}

impl Client {
    pub(super) fn connect(target: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect_timeout(&target, CONNECT).context("cannot connect")?)
    }

    /// A connection that stands already and carries nothing.
    pub(super) fn over(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, reader: AnswerReader::new(), under_way: None })
    }

    /// Whether it waits for an answer, or for the rest of one.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn send(&mut self, request: &[u8], intended: Instant) -> Result<()> {
        let written = (&self.socket).write(request).context("cannot send")?;
        if written < request.len() {
            bail!("a request that does not fit into the socket");
        }
        self.under_way = Some(Exchange { intended, answered: false });
        Ok(())
    }

    /// Takes what has arrived.
    ///
    /// # Errors
    /// The answer is refused, cut or not what it should be.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Brought> {
        let read = match (&self.socket).read(buffer) {
            Ok(0) => bail!("the gateway closed a connection"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Brought::default());
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        let Some(exchange) = &mut self.under_way else { bail!("bytes that nobody asked for") };
        let mut tokens = 0;
        let fresh = buffer.get(..read).unwrap_or_default();
        let progress =
            self.reader.take(fresh, |frame| tokens += u32::from(matches!(frame, Frame::Content(_))))?;
        let begins = tokens > 0 && !exchange.answered;
        exchange.answered |= begins;
        let first = begins.then(|| First { intended: exchange.intended, queue_ms: self.reader.queue_ms() });
        let complete = matches!(progress, Progress::Complete(_));
        if complete {
            self.under_way = None;
        }
        Ok(Brought { tokens, first, complete })
    }
}
