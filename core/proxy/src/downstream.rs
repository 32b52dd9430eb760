//! One client connection: bytes in, bytes out, and the knowledge that the client has left.
//!
//! A single read of the client's socket is under way nearly always: between requests it waits for the next
//! one, and during an exchange the very same read notices that the client has gone. So watching a client
//! costs no system call. The read lives in [`Downstream::pump`], a future that is polled beside the
//! request's own and is never dropped while a read is in flight. Bytes that come early (a pipelined request)
//! wait in the inlet, up to a limit.

use std::{
    cell::{Cell, Ref, RefCell},
    future::{Future, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use obleth_policy::unit::Instant;

use crate::{
    buffers::{self, Buffers},
    shard::Shard,
    socket::{Handle, Reader, Writer},
    timer::Alarm,
};

/// Room for one read of a client's socket. A request of ordinary size arrives in one.
const READ_CHUNK: usize = buffers::SIZE;
/// Room for one read while a large body comes in.
const READ_CHUNK_LARGE: usize = 64 * 1024;
/// Bytes past the current request that are taken in while it is served. Reading pauses there.
const AHEAD_LIMIT: usize = 64 * 1024;
/// Operations that one connection may complete before the others get their turn. On epoll an operation whose
/// peer keeps up never waits, so without this one flooding peer would have the core to itself.
const TURN: u32 = 128;
/// How long a connection whose turn is over stands back.
const STAND_BACK: Duration = Duration::from_millis(1);
/// An inlet that grew past this for a large body is given back afterwards.
const INLET_KEEP: usize = 64 * 1024;

/// The client left, or its connection broke: whatever is in hand is of no use to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why waiting for something ended.
#[derive(Debug)]
pub(crate) enum Woke<T> {
    /// It came.
    Done(T),
    /// The client left first.
    Gone,
    /// The alarm went first.
    Alarm,
    /// The shard's drain has run out of time.
    Expired,
}

/// What came from the client and is not yet used up.
#[derive(Debug, Default)]
struct Inlet {
    buf: Vec<u8>,
    /// The reading side is finished.
    ended: bool,
}

/// See the module's text. Owned by the connection's task.
#[derive(Debug)]
pub(crate) struct Downstream {
    inlet: RefCell<Inlet>,
    /// Somebody waits for bytes, or watches: the pump may read up to this many bytes in the inlet.
    wanted: Cell<usize>,
    chunk: Cell<usize>,
    /// The pump has to look at what is wanted.
    kicked: Cell<bool>,
    /// The pump's read is under way: it looks by itself when that is done.
    reading: Cell<bool>,
    /// The pump has brought something, or the end.
    came: Cell<bool>,
    writer: RefCell<Option<Writer>>,
    handle: Handle,
    /// The one deadline that this connection is under.
    pub(crate) alarm: Alarm,
    shard: Rc<Shard>,
    idle: Cell<bool>,
    /// Operations completed since the task was last polled.
    turn: Cell<u32>,
    peer: Cell<Option<IpAddr>>,
}

impl Downstream {
    pub(crate) fn new(shard: &Rc<Shard>, writer: Writer, handle: Handle) -> Self {
        Self {
            inlet: RefCell::default(),
            wanted: Cell::new(0),
            chunk: Cell::new(READ_CHUNK),
            kicked: Cell::new(false),
            reading: Cell::new(false),
            came: Cell::new(false),
            writer: RefCell::new(Some(writer)),
            handle,
            alarm: shard.timers.alarm(),
            shard: Rc::clone(shard),
            idle: Cell::new(true),
            turn: Cell::new(0),
            peer: Cell::new(None),
        }
    }

    /// Reads the socket whenever somebody wants bytes. Ends with the client's side of the connection.
    async fn pump(&self, mut reader: Reader) {
        let mut chunk = Vec::new();
        loop {
            poll_fn(|_| match self.wanted.get() > self.inlet.borrow().buf.len() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            if chunk.capacity() != self.chunk.get() {
                chunk = self.buffers().take(self.chunk.get());
            }
            chunk.clear();
            self.reading.set(true);
            let (got, back) = reader.fill(chunk).await;
            self.reading.set(false);
            self.came.set(true);
            chunk = back;
            let mut inlet = self.inlet.borrow_mut();
            match got {
                // A request of ordinary size stays where it was read to.
                Ok(1..) if inlet.buf.capacity() == 0 => inlet.buf = std::mem::take(&mut chunk),
                Ok(1..) => inlet.buf.extend_from_slice(&chunk),
                Ok(0) | Err(_) => {
                    inlet.ended = true;
                    return;
                }
            }
        }
    }

    /// Runs `serve` with the pump beside it. Returns when both have ended: the socket is then unused.
    pub(crate) async fn run(&self, reader: Reader, mut serve: Pin<&mut impl Future<Output = ()>>) {
        let mut pump = pin!(self.pump(reader));
        let (mut pumping, mut serving) = (true, true);
        poll_fn(|cx| {
            self.turn.set(0);
            self.shard.timers.clock().now();
            let mut woken = true;
            loop {
                self.kicked.set(false);
                self.came.set(false);
                if pumping && pump.as_mut().poll(cx).is_ready() {
                    pumping = false;
                }
                // Whoever woke the task, `serve` looks once; after that only what the pump brings is news to it.
                let news = std::mem::take(&mut woken) || self.came.get();
                if serving && news && serve.as_mut().poll(cx).is_ready() {
                    serving = false;
                    // Nobody will ask any more: release a read that still waits, then see it through.
                    if pumping {
                        self.handle.shut_both();
                        self.want(usize::MAX);
                    }
                }
                if !pumping && !serving {
                    return Poll::Ready(());
                }
                if !self.kicked.get() || self.reading.get() || self.turn_is_over(cx) {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Counts an operation; when the turn is over, has the task woken a moment later. Not at once: a task that
    /// wakes itself goes to the front of the runtime's queue.
    fn turn_is_over(&self, cx: &Context<'_>) -> bool {
        self.turn.set(self.turn.get().saturating_add(1));
        if self.turn.get() < TURN {
            return false;
        }
        let waker = cx.waker().clone();
        monoio::spawn(async move {
            monoio::time::sleep(STAND_BACK).await;
            waker.wake();
        });
        true
    }

    /// Lets the pump read until the inlet holds `bytes`.
    fn want(&self, bytes: usize) {
        if self.wanted.get() != bytes {
            self.wanted.set(bytes);
            self.kicked.set(true);
        }
    }

    /// What has come and is not used up.
    pub(crate) fn inlet(&self) -> Ref<'_, Vec<u8>> {
        Ref::map(self.inlet.borrow(), |inlet| &inlet.buf)
    }

    /// Changes what has come, in place.
    pub(crate) fn edit_inlet<T>(&self, edit: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        edit(&mut self.inlet.borrow_mut().buf)
    }

    /// Waits until the inlet holds more than `have` bytes, under the alarm.
    pub(crate) async fn more_than(&self, have: usize) -> Woke<()> {
        self.want(have.saturating_add(1));
        let woke = poll_fn(|cx| {
            let inlet = self.inlet.borrow();
            if inlet.buf.len() > have {
                return Poll::Ready(Woke::Done(()));
            }
            if inlet.ended {
                return Poll::Ready(Woke::Gone);
            }
            if self.alarm.poll_fired(cx) {
                return Poll::Ready(Woke::Alarm);
            }
            if self.shard.expired.get() { Poll::Ready(Woke::Expired) } else { Poll::Pending }
        })
        .await;
        self.want(0);
        woke
    }

    /// A body of `bytes` is about to come in: read in large pieces, without growing step by step.
    pub(crate) fn expect_large(&self, bytes: usize) {
        let missing = bytes.saturating_sub(self.inlet.borrow().buf.len());
        if missing > READ_CHUNK {
            self.chunk.set(READ_CHUNK_LARGE);
            self.edit_inlet(|buf| buf.reserve_exact(missing.saturating_add(READ_CHUNK_LARGE)));
        }
    }

    /// From now on the client is watched: the pump reads on past the current request, up to a limit.
    pub(crate) fn watch(&self) {
        self.chunk.set(READ_CHUNK);
        self.want(self.inlet.borrow().buf.len().saturating_add(AHEAD_LIMIT));
    }

    /// The current request is done with; its first `used` bytes are thrown away.
    pub(crate) fn finish_request(&self, used: usize) {
        self.want(0);
        self.chunk.set(READ_CHUNK);
        self.edit_inlet(|buf| {
            buf.drain(..used.min(buf.len()));
            if buf.is_empty() {
                self.buffers().give(std::mem::take(buf));
            } else if buf.capacity() > INLET_KEEP {
                buf.shrink_to(READ_CHUNK);
            }
        });
    }

    /// The core's buffers.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.shard.buffers
    }

    /// The address at the other end of the connection. The kernel is asked once, and only for a client whose
    /// address matters; `None` if the connection was gone by then.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        let peer = self.peer.get().or_else(|| self.handle.peer());
        self.peer.set(peer);
        peer
    }

    /// The time at which the connection's task was last woken; what it does until it sleeps again takes
    /// microseconds.
    pub(crate) fn now(&self) -> Instant {
        self.shard.timers.clock().recent()
    }

    /// Whether the client has left.
    pub(crate) fn gone(&self) -> bool {
        self.inlet.borrow().ended
    }

    /// Polls `op` together with the client, the alarm and the drain. Whatever wakes it, `op` stays as it is:
    /// the caller goes on with it or, having shut its socket down, awaits its end.
    pub(crate) async fn wait<F: Future>(&self, mut op: Pin<&mut F>) -> Woke<F::Output> {
        poll_fn(|cx| self.poll_wait(op.as_mut(), cx)).await
    }

    fn poll_wait<F: Future>(&self, op: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Woke<F::Output>> {
        if self.turn_is_over(cx) {
            return Poll::Pending;
        }
        if let Poll::Ready(output) = op.poll(cx) {
            return Poll::Ready(Woke::Done(output));
        }
        if self.gone() {
            return Poll::Ready(Woke::Gone);
        }
        if self.alarm.poll_fired(cx) {
            return Poll::Ready(Woke::Alarm);
        }
        if self.shard.expired.get() { Poll::Ready(Woke::Expired) } else { Poll::Pending }
    }

    /// Sends bytes to the client and gives the emptied buffer back. Takes over the alarm: a client that does
    /// not take the bytes in within its limit holds a slot and a backend for nothing, and is as good as gone.
    pub(crate) async fn send(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Gone> {
        let Some(mut writer) = self.writer.borrow_mut().take() else { return Err(Gone) };
        let (sent, mut bytes) = {
            let mut write = pin!(writer.write_all(bytes));
            let (mut waiting, mut released) = (false, false);
            poll_fn(|cx| {
                if self.turn_is_over(cx) {
                    return Poll::Pending;
                }
                if let Poll::Ready(done) = write.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                if !std::mem::replace(&mut waiting, true) {
                    self.alarm.set_in(Some(self.shard.settings.client.write));
                }
                if !released && (self.gone() || self.alarm.poll_fired(cx)) {
                    released = true;
                    self.handle.shut_both();
                }
                Poll::Pending
            })
            .await
        };
        *self.writer.borrow_mut() = Some(writer);
        bytes.clear();
        sent.map(|()| bytes).map_err(|_| Gone)
    }

    /// Ends our side; the client may still send.
    pub(crate) fn shut_write(&self) {
        self.handle.shut_write();
    }

    /// Takes what comes until the client closes, or `limit` bytes, or the alarm. The bytes are thrown away.
    pub(crate) async fn discard(&self, limit: usize) {
        self.chunk.set(READ_CHUNK_LARGE);
        let mut discarded = 0_usize;
        while discarded < limit {
            let had = self.edit_inlet(|buf| {
                let had = buf.len();
                buf.clear();
                had
            });
            discarded = discarded.saturating_add(had);
            if !matches!(self.more_than(0).await, Woke::Done(())) {
                return;
            }
        }
    }

    /// Has the connection's task look around: the drain has run out of time.
    pub(crate) fn wake(&self) {
        self.alarm.wake();
    }

    /// Marks the connection as waiting for a request, or not. A drain closes those that wait.
    pub(crate) fn set_idle(&self, idle: bool) {
        if self.idle.replace(idle) != idle && self.shard.draining.get() {
            self.shard.stir();
        }
    }

    /// Whether the connection waits for a request.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// Ends both directions at once.
    pub(crate) fn close(&self) {
        self.handle.shut_both();
    }

    /// Closes the connection if it waits for a request.
    pub(crate) fn close_if_idle(&self) {
        if self.idle.get() {
            self.handle.shut_read();
        }
    }
}
