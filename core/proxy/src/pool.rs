//! Idle connections to backends, per core and endpoint.
//!
//! The one that was used last goes out first, so that the others grow old and are closed. An idle connection
//! is peeked at before it is used: a backend that closed it, or sent something unasked, is found out without
//! spending a request on it. Only a connection whose last answer was received to its end ever comes in here;
//! after a timeout or a fault it is closed by being dropped.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use foldhash::HashMap;
use obleth_policy::{
    id::EndpointId,
    snapshot::{Endpoint, Secret},
    unit::Instant,
};

use crate::{
    Settings,
    socket::{Handle, Reader, Writer},
    timer::{Alarm, Timers},
    tls::Secured,
};

/// Idle connections kept per endpoint and core. Above it, the oldest is closed.
const MAX_IDLE: usize = 1024;

/// How a connection to a backend is spoken on.
#[derive(Debug)]
pub(crate) enum Line {
    /// As it is; both directions at the same time.
    Plain(Reader, Writer),
    /// Under TLS; one direction at a time.
    Tls(Secured),
}

impl Line {
    /// As [`Reader::append`].
    pub(crate) async fn append(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Plain(reader, _) => reader.append(buf, room).await,
            // On the heap: what waits is large, and would make every request as large.
            Self::Tls(secured) => Box::pin(secured.append(buf, room)).await,
        }
    }
}

/// One connection to a backend. Dropping it closes it. It lies on the heap for as long as it lasts, because every request
/// hands it on several times.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) line: Line,
    pub(crate) handle: Handle,
    /// Bytes received and not yet used.
    pub(crate) buf: Vec<u8>,
    /// It has carried a request before: if it turns out closed, the request was not seen.
    pub(crate) reused: bool,
    /// The backend was not sent all of a request: nothing more can be.
    pub(crate) half_closed: bool,
    /// The last read failed: what came before it may not be all.
    pub(crate) broken: bool,
    /// What the backend is sent as our credential: it must never come back from there to a client.
    pub(crate) credential: Option<Secret>,
    pub(crate) endpoint: EndpointId,
    revision: u64,
}

impl Upstream {
    pub(crate) fn new(line: Line, handle: Handle, endpoint: &Endpoint) -> Box<Self> {
        let credential = endpoint.credential.clone();
        let (endpoint, revision) = (endpoint.id, endpoint.revision);
        Box::new(Self {
            line,
            handle,
            buf: Vec::new(),
            reused: false,
            half_closed: false,
            broken: false,
            credential,
            endpoint,
            revision,
        })
    }

    /// Whether an idle connection can still be used: open, and nothing unasked has arrived on it.
    fn is_quiet(&mut self) -> bool {
        self.handle.is_quiet()
            && match &mut self.line {
                Line::Plain(..) => true,
                Line::Tls(secured) => secured.is_quiet(),
            }
    }
}

#[derive(Debug)]
struct Idle {
    upstream: Box<Upstream>,
    until: Instant,
}

/// See the module's text. Owned by the shard.
#[derive(Debug)]
pub(crate) struct Pool {
    keepalive: Duration,
    idle: RefCell<HashMap<EndpointId, Vec<Idle>>>,
    timers: Rc<Timers>,
    due: Alarm,
    due_set: Cell<bool>,
}

impl Pool {
    pub(crate) fn new(settings: &Settings, timers: &Rc<Timers>) -> Self {
        Self {
            keepalive: settings.upstream_keepalive,
            idle: RefCell::default(),
            timers: Rc::clone(timers),
            due: timers.alarm(),
            due_set: Cell::new(false),
        }
    }

    /// A connection to this endpoint that looks usable.
    pub(crate) fn take(&self, endpoint: &Endpoint) -> Option<Box<Upstream>> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&endpoint.id)?;
        let now = self.timers.clock().recent();
        while let Some(Idle { mut upstream, until }) = stack.pop() {
            if upstream.revision == endpoint.revision && now < until && upstream.is_quiet() {
                upstream.reused = true;
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is complete. `limit` is what the backend allowed, if it said so. Its buffer
    /// stays with the core, for others.
    pub(crate) fn put(&self, upstream: Box<Upstream>, limit: Option<Duration>) {
        let keepalive = limit.map_or(self.keepalive, |limit| limit.min(self.keepalive));
        if keepalive.is_zero() || upstream.half_closed || !upstream.buf.is_empty() {
            return;
        }
        let until = self.timers.clock().recent().plus(keepalive);
        let mut idle = self.idle.borrow_mut();
        let stack = idle.entry(upstream.endpoint).or_default();
        if stack.len() >= MAX_IDLE {
            stack.remove(0);
        }
        stack.push(Idle { upstream, until });
        if !self.due_set.replace(true) {
            self.due.set(until);
        }
    }

    /// Waits until some connection may have grown too old. Sleeps for good while the pool is empty.
    pub(crate) async fn until_due(&self) {
        self.due.wait().await;
    }

    /// Closes what is too old and sets the next time to look. True if that leaves nothing.
    pub(crate) fn close_expired(&self) -> bool {
        let now = self.timers.clock().now();
        let mut next: Option<Instant> = None;
        self.idle.borrow_mut().retain(|_, stack| {
            stack.retain(|idle| idle.until > now);
            next = stack.iter().map(|idle| idle.until).chain(next).min();
            !stack.is_empty()
        });
        self.due_set.set(next.is_some());
        match next {
            Some(at) => self.due.set(at),
            None => self.due.clear(),
        }
        next.is_none()
    }
}
