//! One exchange with a backend: the connection, the deadlines, and the answer's bytes.
//!
//! A wait can end because the client left or a time limit passed. Then the backend's connection is shut down,
//! the operation that waits on it is seen through, and the connection is never used again.

use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use obleth_policy::{
    outcome::Code,
    snapshot::Timers,
    unit::{Instant, LimitMs},
};
use obleth_wire::http1::{BodyDecoder, BodyError, Framing, Limits, Piece, ResponseHead};

use super::settle::Tally;
use crate::{
    buffers,
    downstream::{Downstream, Woke},
    listener::contain,
    pool::Upstream,
    shard::Shard,
    socket::Handle,
    trouble::Cause,
};

/// Room for one read of an answer; a read that filled it is followed by a larger one.
const READ_ROOM: usize = buffers::SIZE;
const READ_ROOM_LARGE: usize = 64 * 1024;

/// Why a wait was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The client left.
    ClientGone,
    /// A time limit passed.
    Timeout,
    /// The process is shutting down and will wait no longer.
    Expired,
}

impl Interrupt {
    /// What it counts as once the answer has begun.
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Timeout => Code::UpstreamTimeout,
            Self::Expired | Self::ClientGone => Code::Draining,
        }
    }

    /// Notes who is to blame for it once the answer has begun.
    pub(super) fn blame(self, tally: &mut Tally) {
        if self == Self::Timeout {
            tally.blame(Cause::Stalled);
        }
    }
}

/// The time limits of one request, from its dispatch on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) timers: Timers,
    total: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(timers: Timers, dispatched: Instant) -> Self {
        Self { timers, total: timers.total.get().map(|limit| dispatched.plus(limit)) }
    }

    /// When a phase that begins `now` and may take `limit` has to be over.
    pub(super) fn end(&self, now: Instant, limit: LimitMs) -> Option<Instant> {
        let phase = limit.get().map(|limit| now.plus(limit));
        match (phase, self.total) {
            (Some(phase), Some(total)) => Some(phase.min(total)),
            (one, other) => one.or(other),
        }
    }

    /// Sets the connection's alarm for a phase that begins now. An operation that never has to wait never hears
    /// the alarm, so the total limit is looked at here as well.
    pub(super) fn arm(&self, down: &Downstream, limit: LimitMs) -> Result<(), Interrupt> {
        let now = down.now();
        if self.total.is_some_and(|total| total <= now) {
            return Err(Interrupt::Timeout);
        }
        match self.end(now, limit) {
            Some(at) => down.alarm.set(at),
            None => down.alarm.clear(),
        }
        Ok(())
    }
}

/// Waits for an operation on a backend's socket, under the connection's alarm. When the wait is broken off,
/// the socket is shut down first, and the operation is seen through.
pub(super) async fn guarded<F: Future>(
    down: &Downstream,
    handle: &Handle,
    mut operation: Pin<&mut F>,
) -> Result<F::Output, Interrupt> {
    let interrupt = match down.wait(operation.as_mut()).await {
        Woke::Done(output) => return Ok(output),
        Woke::Gone => Interrupt::ClientGone,
        Woke::Alarm => Interrupt::Timeout,
        Woke::Expired => Interrupt::Expired,
    };
    handle.shut_both();
    operation.await;
    Err(interrupt)
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// More bytes.
    Bytes,
    /// The backend closed, cleanly or not.
    Closed,
}

impl Upstream {
    /// How much the next read may bring.
    pub(super) fn room(&self, last: usize) -> usize {
        if last >= READ_ROOM { READ_ROOM_LARGE } else { READ_ROOM }
    }

    /// Takes back what a read returned.
    pub(super) fn filled(&mut self, (got, buf): (io::Result<usize>, Vec<u8>)) -> (Filled, usize) {
        self.buf = buf;
        self.broken = got.is_err();
        match got {
            Ok(n @ 1..) => (Filled::Bytes, n),
            Ok(0) | Err(_) => (Filled::Closed, 0),
        }
    }

    /// Reads once, behind what is in the buffer.
    pub(super) async fn fill(
        &mut self,
        down: &Downstream,
        last: usize,
    ) -> Result<(Filled, usize), Interrupt> {
        let room = self.room(last);
        let handle = self.handle.clone();
        let received = mem::take(&mut self.buf);
        let output = guarded(down, &handle, pin!(self.line.append(received, room))).await?;
        Ok(self.filled(output))
    }
}

/// An answer on its way: its head is parsed, its body is wherever the backend is with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) upstream: Box<Upstream>,
    pub(super) head: ResponseHead,
    /// The head's own bytes, which its spans point into.
    pub(super) head_bytes: Vec<u8>,
    pub(super) decoder: BodyDecoder,
}

impl Answer {
    /// Hands the payload among the received bytes to `sink`; true at the end of the body.
    pub(super) fn decode(&mut self, mut sink: impl FnMut(&[u8])) -> Result<bool, BodyError> {
        let mut used = 0_usize;
        let ended = loop {
            let input = self.upstream.buf.get(used..).unwrap_or_default();
            let decoded = self.decoder.decode(input)?;
            if let Piece::Data(range) = &decoded.piece {
                sink(input.get(range.clone()).unwrap_or_default());
            }
            used = used.saturating_add(decoded.consumed);
            match decoded.piece {
                Piece::Data(_) => {}
                Piece::More => break false,
                Piece::End => break true,
            }
        };
        if used >= self.upstream.buf.len() {
            self.upstream.buf.clear();
        } else {
            self.upstream.buf.drain(..used);
        }
        Ok(ended)
    }

    /// Takes the body out as it lies, if it is of a known length and came whole together with the head.
    pub(super) fn take_whole(&mut self) -> Option<Vec<u8>> {
        let length = Some(u64::try_from(self.upstream.buf.len()).unwrap_or(u64::MAX));
        if self.head.framing != Framing::Length(length?) || self.decoder.remaining() != length {
            return None;
        }
        self.decoder = BodyDecoder::new(Framing::None, &Limits::default());
        Some(mem::take(&mut self.upstream.buf))
    }

    /// The backend closed. An error unless that is where this body ends; a connection that broke ends nothing.
    pub(super) fn end_at_close(&mut self) -> Result<(), BodyError> {
        self.decoder.at_eof()?;
        if self.upstream.broken {
            return Err(BodyError::Truncated);
        }
        self.decoder = BodyDecoder::new(Framing::None, &Limits::default());
        self.head.keep_alive = false;
        Ok(())
    }

    /// Whether bytes came behind the end of the body.
    pub(super) fn has_surplus(&self) -> bool {
        self.decoder.is_done() && !self.upstream.buf.is_empty()
    }

    /// Keeps the connection for the next request if the body has been received to its end and nothing
    /// speaks against it; else closes it.
    pub(super) fn done_with_upstream(self, shard: &Shard) {
        if self.decoder.is_done() && self.head.keep_alive {
            let limit = self.head.keep_alive_timeout_secs.map(|secs| Duration::from_secs(u64::from(secs)));
            let mut upstream = self.upstream;
            if upstream.buf.is_empty() {
                shard.buffers.give(mem::take(&mut upstream.buf));
            }
            shard.pool.put(upstream, limit);
        }
    }

    /// The same for an answer that has all its content but not its very end: waits for that, briefly, while
    /// the client is served on.
    pub(super) fn drain_upstream(mut self, shard: &Rc<Shard>, patience: Duration) {
        if self.decoder.is_done() || !self.head.keep_alive {
            return self.done_with_upstream(shard);
        }
        let shard = Rc::clone(shard);
        let drain = async move {
            let alarm = shard.timers.alarm();
            alarm.set_in(Some(patience));
            loop {
                let output = {
                    let room = self.upstream.room(0);
                    let Upstream { line, buf, handle, .. } = &mut *self.upstream;
                    let mut read = pin!(line.append(mem::take(buf), room));
                    poll_fn(|cx| {
                        if alarm.poll_fired(cx) {
                            handle.shut_both();
                        }
                        read.as_mut().poll(cx)
                    })
                    .await
                };
                let (filled, _) = self.upstream.filled(output);
                match self.decode(|_| ()) {
                    Ok(true) => return self.done_with_upstream(&shard),
                    Ok(false) if filled == Filled::Bytes => {}
                    _ => return,
                }
            }
        };
        monoio::spawn(async move { contain(pin!(drain)).await });
    }
}
