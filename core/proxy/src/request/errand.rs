//! One exchange over one connection: the request goes out, and the head of its answer comes back.
//!
//! Which connection that is, and what becomes of a failure, is decided elsewhere; here is only known whether the
//! backend can have seen anything of the request.

use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use obleth_policy::{
    snapshot::Endpoint,
    unit::{Instant, LimitMs},
};
use obleth_wire::http1::{HeadError, HeadScan, Limits, Method, ResponseHead, parse_response, write};

use super::{
    ask::Asked,
    exchange::{Deadlines, Filled, Interrupt, guarded},
    parse::Call,
};
use crate::{
    downstream::Downstream,
    pool::{Line, Upstream},
    socket::{Handle, Writer},
    tls::Secured,
    trouble::Cause,
};

/// Room for the head of a request, so that it does not grow line by line.
const HEAD: usize = 1024;
/// A request leaves in one write up to this size, and in pieces of it above.
const WRITE_PIECE: usize = 256 * 1024;
/// A pooled connection that closes this soon after the request was written had been closed before. One that
/// closes later may have run it.
const STALE_WITHIN: Duration = Duration::from_millis(250);
/// Interim answers (1xx) before the real one. A backend that sends more is not going to answer.
const MAX_INTERIM: u32 = 8;

/// Why one try came to nothing.
pub(super) enum Failed {
    /// Nothing of the request can have been seen.
    Unseen,
    /// It may have run.
    Seen(Cause),
    Interrupted(Interrupt),
}

/// What a request is written to.
trait Sink {
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>);
}

impl Sink for Writer {
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        Self::write_all(self, bytes).await
    }
}

impl Sink for Secured {
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        Self::write_all(self, bytes).await
    }
}

fn bad_head(error: HeadError) -> Failed {
    Failed::Seen(Cause::BadHead(match error {
        HeadError::Bad(what) => what,
        HeadError::TooLarge | HeadError::UriTooLong => "more than 64 KiB, or more than 100 headers",
        HeadError::Version => "the version",
    }))
}

/// One request on its way to one endpoint.
#[derive(Clone, Copy)]
pub(super) struct Errand<'a> {
    pub(super) down: &'a Downstream,
    pub(super) call: &'a Call,
    pub(super) asked: &'a Asked<'a>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) deadlines: Deadlines,
}

impl Errand<'_> {
    pub(super) fn arm(&self, limit: LimitMs) -> Result<(), Interrupt> {
        self.deadlines.arm(self.down, limit)
    }

    /// Sends the request and receives the head of its answer.
    pub(super) async fn exchange(&self, upstream: &mut Upstream) -> Result<(ResponseHead, Vec<u8>), Failed> {
        let (filled, mut last, waited) = self.talk(upstream).await.map_err(Failed::Interrupted)?;
        if filled == Filled::Closed {
            let unseen = upstream.reused && waited < STALE_WITHIN;
            return Err(if unseen { Failed::Unseen } else { Failed::Seen(Cause::ClosedUnanswered) });
        }
        let limits = Limits::default();
        let mut scan = HeadScan::default();
        let mut interim = 0_u32;
        loop {
            let found = match upstream.buf.is_empty() {
                true => None,
                false => scan.find_end(&upstream.buf, &limits).map_err(bad_head)?,
            };
            let Some(len) = found else {
                let (filled, got) = upstream.fill(self.down, last).await.map_err(Failed::Interrupted)?;
                last = got;
                match filled {
                    Filled::Bytes => continue,
                    Filled::Closed => return Err(Failed::Seen(Cause::ClosedUnanswered)),
                }
            };
            let head = parse_response(&upstream.buf, len, Method::Post, &limits).map_err(bad_head)?;
            let head_bytes = upstream.buf.get(..len).unwrap_or_default().to_vec();
            upstream.buf.drain(..len);
            if head.status >= 200 {
                return Ok((head, head_bytes));
            }
            // The real answer follows.
            interim = interim.saturating_add(1);
            if interim > MAX_INTERIM {
                return Err(Failed::Seen(Cause::OnlyInterim));
            }
            scan.reset();
        }
    }

    /// Writes the request and receives the first bytes of the answer. Returns what was read, and how long after the
    /// last byte written.
    async fn talk(&self, upstream: &mut Upstream) -> Result<(Filled, usize, Duration), Interrupt> {
        self.arm(self.deadlines.timers.first_byte)?;
        let room = upstream.room(0);
        let Upstream { line, handle, buf, .. } = &mut *upstream;
        if buf.capacity() == 0 {
            *buf = self.down.buffers().take(room);
        }
        let (written_at, received, whole) = match line {
            Line::Plain(reader, writer) => {
                let read = pin!(reader.append(mem::take(buf), room));
                let both = pin!(self.at_the_same_time(writer, read, handle));
                guarded(self.down, handle, both).await?
            }
            Line::Tls(secured) => {
                // On the heap, as all that TLS does: its futures are large, and most requests have none.
                let mut in_turn = Box::pin(async {
                    // A backend that does not take the body may have said why.
                    let whole = self.write(secured).await;
                    let written_at = self.written();
                    (written_at, Some(secured.append(mem::take(buf), room).await), whole)
                });
                guarded(self.down, handle, in_turn.as_mut()).await?
            }
        };
        upstream.half_closed = !whole;
        let (filled, got) = received.map_or((Filled::Closed, 0), |output| upstream.filled(output));
        Ok((filled, got, self.down.now().since(written_at)))
    }

    /// The request is out: the wait for the answer begins.
    fn written(&self) -> Instant {
        // The total limit alone goes on if this fails, and the next look at it finds it passed.
        let _ = self.arm(self.deadlines.timers.first_byte);
        self.down.now()
    }

    /// Write and read go to the kernel together, and a backend that answers before it has taken the whole body in is
    /// heard. The rest of the body is then kept back. Returns when the last byte was written, what was read, and
    /// whether all of the request went out.
    async fn at_the_same_time<R>(
        &self,
        writer: &mut Writer,
        mut read: Pin<&mut impl Future<Output = R>>,
        handle: &Handle,
    ) -> (Instant, Option<R>, bool) {
        let mut write = pin!(self.write(writer));
        let (mut written_at, mut received, mut kept_back) = (None, None, false);
        poll_fn(|cx| {
            if written_at.is_none() && write.as_mut().poll(cx).is_ready() {
                written_at = Some(self.written());
            }
            if received.is_none()
                && let Poll::Ready(output) = read.as_mut().poll(cx)
            {
                received = Some(output);
            }
            match (written_at, received.is_some()) {
                (Some(written_at), true) => Poll::Ready((written_at, received.take(), !kept_back)),
                (None, true) if !mem::replace(&mut kept_back, true) => {
                    handle.shut_write();
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Writes head and body; false if the backend does not take them, which is for its answer to explain.
    async fn write(&self, writer: &mut impl Sink) -> bool {
        let length = self.asked.edits.len(self.asked.body.at.len());
        let mut out = self.down.buffers().take(length.min(WRITE_PIECE).saturating_add(HEAD));
        self.head(&mut out, length);
        let mut sent = 0_usize;
        loop {
            sent = sent.saturating_add(self.copy_piece(sent, &mut out));
            let (written, mut emptied) = writer.write_all(out).await;
            if written.is_err() || sent >= length {
                self.down.buffers().give(emptied);
                return written.is_ok();
            }
            emptied.clear();
            out = emptied;
        }
    }

    /// Appends the next piece of the edited body, from `skip` on, up to a write's size. Returns its length.
    fn copy_piece(&self, mut skip: usize, out: &mut Vec<u8>) -> usize {
        let inlet = self.down.inlet();
        let body = inlet.get(self.asked.body.at.clone()).unwrap_or_default();
        let before = out.len();
        for piece in self.asked.edits.pieces(body) {
            let room = WRITE_PIECE.saturating_sub(out.len());
            let fresh = piece.get(skip.min(piece.len())..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            out.extend_from_slice(fresh.get(..room.min(fresh.len())).unwrap_or_default());
            if fresh.len() > room {
                break;
            }
        }
        out.len().saturating_sub(before)
    }

    /// The request's head as the backend gets it: written anew, with what may pass of the client's headers.
    fn head(&self, out: &mut Vec<u8>, length: usize) {
        let inlet = self.down.inlet();
        let route = self.call.route.upstream_path().unwrap_or_default();
        write::request_line(out, "POST", &[self.endpoint.base_path.as_bytes(), route.as_bytes()]);
        write::header(out, "host", self.endpoint.authority.as_bytes());
        write::header(out, "content-type", b"application/json");
        write::header_u64(out, "content-length", u64::try_from(length).unwrap_or(u64::MAX));
        if let Some(secret) = &self.endpoint.credential {
            write::header(out, "authorization", ["Bearer ", secret.expose()].concat().as_bytes());
        }
        write::header(out, "x-request-id", self.call.request_id.as_bytes());
        for (name, value, kind) in self.call.head.iter(&inlet) {
            if kind.goes_upstream() {
                write::header_bytes(out, name, value);
            }
        }
        write::end_head(out);
    }
}
