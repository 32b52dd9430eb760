//! A connection's socket: reading into a growing buffer, writing all of something, and noticing that the peer left.
//!
//! Nagle's algorithm is off, so each call of [`send`] leaves as one segment if it is small enough; that is what makes
//! the cadence of events a client sees the cadence in which they were made.

use std::future::pending;
use std::io::{self, ErrorKind};

use tokio::net::TcpStream;

use crate::counters::{Ending, Ticket};

/// Room made before each read.
const READ_SIZE: usize = 16 << 10;

/// Bytes of pipelined requests that are taken in while an answer is under way; past them the peer's close can no
/// longer be seen, as it could not be by a server that does not read ahead.
const READ_AHEAD: usize = 256 << 10;

/// Appends what has arrived to `buf`, waiting for it if nothing has. False at the end of the stream.
pub(crate) async fn fill(stream: &TcpStream, buf: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        buf.reserve(READ_SIZE);
        match stream.try_read_buf(buf) {
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Writes all of `bytes`.
pub(crate) async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = bytes.split_at(count).1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As [`send`], for the last bytes of an answer: once they are out the request has ended as `ending`.
pub(crate) async fn send_last(
    stream: &TcpStream,
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
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(count) => bytes = bytes.split_at(count).1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Returns when the peer has closed or reset the connection; a FIN counts. Pipelined bytes are kept in `buf`.
pub(crate) async fn gone(stream: &TcpStream, buf: &mut Vec<u8>) {
    while buf.len() < READ_AHEAD {
        if !matches!(fill(stream, buf).await, Ok(true)) {
            return;
        }
    }
    pending().await
}
