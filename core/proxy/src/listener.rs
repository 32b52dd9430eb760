//! Accepts connections and gives each its task. A panic stays inside the task that caused it.
//!
//! The listener is waited on for readiness and then emptied with plain calls: no accept is ever in flight in
//! the ring, so none can be lost with it, a socket is closed to child processes from its first moment, and a
//! shard that died leaves nothing behind that could take its successor's connections.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    net::TcpListener,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use monoio::net::TcpStream;
use obleth_link::Driver;
use rustix::{
    io::Errno,
    net::{Shutdown, SocketFlags},
};

use crate::{downstream::Downstream, request, shard::Shard, socket};

/// Connections accepted in a row before the others get their turn.
const TURN: u32 = 64;
/// Pause after a turn, and after a failed accept: without descriptors left the kernel fails at once, again and
/// again.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A shard's listener, with something that can be waited on.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    readiness: TcpStream,
    flags: SocketFlags,
    closed: Cell<bool>,
}

impl Listener {
    pub(crate) fn new(listener: TcpListener, driver: Driver) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let readiness = TcpStream::from_std(std::os::fd::OwnedFd::from(listener.try_clone()?).into())?;
        // io_uring waits by itself; a non-blocking socket would make it give up at once.
        let flags = match driver {
            Driver::IoUring => SocketFlags::CLOEXEC,
            Driver::Epoll => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        };
        Ok(Self { listener, readiness, flags, closed: Cell::new(false) })
    }

    /// Stops listening, also through other descriptors of the same socket: who waits to be accepted is told at
    /// once, instead of waiting for somebody who is not coming.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        // Fails only when it is closed already.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }

    /// The next connection that waits; `None` while there is none.
    fn next(&self) -> io::Result<Option<TcpStream>> {
        match rustix::net::accept_with(&self.listener, self.flags) {
            Ok(socket) => TcpStream::from_std(socket.into()).map(Some),
            Err(Errno::AGAIN) => Ok(None),
            // The peer gave up while it waited: not the listener's fault, and the listener is still readable
            // if somebody else waits.
            Err(Errno::CONNABORTED | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Accepts until the listener is closed.
pub(crate) async fn accept(shard: Rc<Shard>, listener: Rc<Listener>) {
    let mut failing = false;
    loop {
        let mut accepted = 0;
        let failed = loop {
            match listener.next() {
                Ok(Some(stream)) => {
                    failing = false;
                    begin(&shard, stream);
                    accepted = u32::saturating_add(accepted, 1);
                    if accepted >= TURN {
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if listener.closed.get() {
            return;
        }
        if let Some(error) = failed {
            if !std::mem::replace(&mut failing, true) {
                tracing::error!(%error, "cannot accept connections; raise the limit on open files (ulimit -n)");
            }
            monoio::time::sleep(PAUSE_AFTER_FAILURE).await;
        } else if accepted >= TURN {
            monoio::time::sleep(PAUSE).await;
        } else {
            // An error here cannot last: the next accept finds out what it is.
            let _ = listener.readiness.readable(false).await;
        }
    }
}

/// Gives a connection its task. The shard knows of it from now on, and not from the task's first turn, so that one
/// accepted in a drain's last moment is waited for, too.
fn begin(shard: &Rc<Shard>, stream: TcpStream) {
    let (reader, writer, handle) = socket::split(stream);
    let down = Rc::new(Downstream::new(shard, writer, handle));
    let number = shard.register(&down);
    let shard = Rc::clone(shard);
    monoio::spawn(async move {
        let survived = {
            let serve = pin!(request::serve(&shard, &down));
            contain(pin!(down.run(reader, serve))).await
        };
        if !survived {
            down.close();
        }
        shard.unregister(number);
    });
}

/// Runs a connection's task to its end; false if a panic ended it.
pub(crate) async fn contain(task: Pin<&mut impl Future<Output = ()>>) -> bool {
    let survived = survives(task).await;
    if !survived {
        tracing::error!("a connection was closed because of a bug in the gateway; please report it");
    }
    survived
}

/// Runs a task to its end; false if a panic ended it. Unwinding further would end every connection of the shard.
pub(crate) async fn survives(mut task: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
        Ok(poll) => poll.map(|()| true),
        Err(_) => Poll::Ready(false),
    })
    .await
}
