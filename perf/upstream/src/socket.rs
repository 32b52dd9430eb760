//! A connection's socket: reading into a growing buffer, writing all of something, and noticing that the peer left.
//!
//! Nagle's algorithm is off, so each call of [`send`] leaves as one segment if it is small enough; that is what makes
//! the cadence of events a client sees the cadence in which they were made.

use std::future::pending;
use std::io::{self, ErrorKind};

use tokio::net::TcpStream;

use crate::counters::{Ending, Ticket};
use crate::tls::{Session, Tls};

/// Room made before each read.
const READ_SIZE: usize = 16 << 10;

/// Bytes of pipelined requests that are taken in while an answer is under way; past them the peer's close can no
/// longer be seen, as it could not be by a server that does not read ahead.
const READ_AHEAD: usize = 256 << 10;

/// A client's connection, plain or under TLS.
pub(crate) struct Socket {
    tcp: TcpStream,
    session: Option<Session>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        // Without it small events wait for the acknowledgement of the last one; the connection works all the same.
        let _ = tcp.set_nodelay(true);
        Ok(Self { tcp, session: tls.map(Tls::session).transpose()? })
    }

    fn try_read(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.try_read(&self.tcp, buf),
            None => self.tcp.try_read_buf(buf),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.try_write(&self.tcp, bytes),
            None => self.tcp.try_write(bytes),
        }
    }

    /// Waits until the kernel has everything.
    async fn flushed(&self) -> io::Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        loop {
            match session.try_flush(&self.tcp) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.tcp.writable().await?,
                done => return done,
            }
        }
    }

    /// The close that follows is a reset.
    pub(crate) fn reset_at_close(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// Once per connection, under TLS: whether its handshake took an earlier session up.
    pub(crate) fn resumed(&self) -> Option<bool> {
        self.session.as_ref()?.resumed()
    }

    /// Says under TLS that nothing more comes.
    pub(crate) fn close(&self) {
        if let Some(session) = &self.session {
            session.close(&self.tcp);
        }
    }
}

/// Appends what has arrived to `buf`, waiting for it if nothing has. False at the end of the stream.
pub(crate) async fn fill(stream: &Socket, buf: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        buf.reserve(READ_SIZE);
        match stream.try_read(buf) {
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.tcp.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Writes all of `bytes`.
pub(crate) async fn send(stream: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = bytes.split_at(count).1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    stream.flushed().await
}

/// As [`send`], for the last bytes of an answer: once they are out the request has ended as `ending`.
pub(crate) async fn send_last(
    stream: &Socket,
    mut bytes: &[u8],
    ticket: &mut Ticket,
    ending: Ending,
    completion_tokens: u64,
) -> io::Result<()> {
    loop {
        let mut written = Ok(0);
        ticket.ends_if(ending, completion_tokens, || {
            written = stream.try_write(bytes);
            matches!(written, Ok(count) if count == bytes.len())
        });
        match written {
            Ok(count) if count == bytes.len() => return stream.flushed().await,
            Ok(count) => bytes = bytes.split_at(count).1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Returns when the peer has closed or reset the connection; a FIN counts. Pipelined bytes are kept in `buf`.
pub(crate) async fn gone(stream: &Socket, buf: &mut Vec<u8>) {
    while buf.len() < READ_AHEAD {
        if !matches!(fill(stream, buf).await, Ok(true)) {
            return;
        }
    }
    pending().await
}
