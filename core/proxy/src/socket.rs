//! A connected TCP socket with its two directions apart, and a way to end what waits on it.
//!
//! The driver waits, be it io_uring or epoll, and plain calls that never block move the bytes: who waits holds no
//! buffer, and what the kernel takes at once needs no wait. That is cheaper than reading and writing through the
//! ring, by a twentieth of all processor time (`perf/README.md`). Only TLS reads and writes through the driver; there,
//! an operation that has begun must be awaited to its end, or bytes are lost. So nothing here is ever cancelled: to
//! end a wait, the socket is shut down, which works the same everywhere.

#![allow(unsafe_code)] // two borrows, below

use std::{
    cell::{Cell, UnsafeCell},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
};

use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut, SliceMut},
    io::{AsyncReadRent, AsyncWriteRent, OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};
use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{RecvFlags, Shutdown},
};

/// The reading direction. One read at a time.
#[derive(Debug)]
pub(crate) struct Reader {
    handle: Handle,
    /// The last read left nothing behind, so the next one waits before it asks.
    drained: bool,
}

/// The writing direction. One write at a time.
#[derive(Debug)]
pub(crate) struct Writer(OwnedWriteHalf<TcpStream>);

/// Acts on the socket while others wait on it. Keeps the descriptor open.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    fd: RawFd,
    open: Rc<UnsafeCell<TcpStream>>,
}

/// A connection that is being set up. Dropping it gives it up: the kernel is told, because on io_uring a wait
/// that was dropped would keep the socket until the kernel itself lost patience, two minutes later.
#[derive(Debug)]
pub(crate) struct Connecting(Option<TcpStream>);

impl Connecting {
    /// Takes a socket whose connect has begun.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(Some(TcpStream::from_std(socket.into())?)))
    }

    /// Waits until the connection stands. May be dropped at any time.
    pub(crate) async fn established(mut self) -> io::Result<(Reader, Writer, Handle)> {
        if let Some(stream) = &self.0 {
            stream.writable(false).await?;
        }
        let stream = self.0.take().ok_or(io::ErrorKind::NotConnected)?;
        let parts = split(stream);
        parts.2.connected()?;
        Ok(parts)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            split(stream).2.shut_both();
        }
    }
}

/// Takes a stream apart.
pub(crate) fn split(stream: TcpStream) -> (Reader, Writer, Handle) {
    let handle = Handle { fd: stream.as_raw_fd(), open: Rc::new(UnsafeCell::new(stream)) };
    (
        Reader { handle: handle.clone(), drained: true },
        Writer(OwnedWriteHalf(Rc::clone(&handle.open))),
        handle,
    )
}

impl Reader {
    /// Waits until there may be something to read.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        if self.drained { self.handle.stream().readable(false).await } else { Ok(()) }
    }

    /// Appends what has come to `buf`, for which it makes room for `room` bytes. `Some(Ok(0))` is the end, `None`
    /// that nothing has come.
    pub(crate) fn take(&mut self, buf: &mut Vec<u8>, room: usize) -> Option<io::Result<usize>> {
        buf.reserve(room);
        let room = buf.capacity().saturating_sub(buf.len());
        loop {
            match rustix::net::recv(self.handle.fd(), spare_capacity(buf), RecvFlags::DONTWAIT) {
                Ok((got, _)) => {
                    self.drained = got < room;
                    return Some(Ok(got));
                }
                Err(Errno::AGAIN) => {
                    self.drained = true;
                    return None;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Waits for bytes and appends them to `buf`, as [`Self::take`]. Who waits with an empty buffer holds none.
    pub(crate) async fn append(&mut self, mut buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        if buf.is_empty() && self.drained {
            buf = Vec::new();
        }
        loop {
            if let Err(error) = self.ready().await {
                return (Err(error), buf);
            }
            if let Some(got) = self.take(&mut buf, room) {
                return (got, buf);
            }
        }
    }
}

impl Writer {
    /// Writes all of `bytes`. Must be awaited to its end.
    pub(crate) async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        write_all(&mut self.0, bytes).await
    }
}

/// See [`Reader::append`].
pub(crate) async fn append(
    reader: &mut impl AsyncReadRent,
    mut buf: Vec<u8>,
    room: usize,
) -> (io::Result<usize>, Vec<u8>) {
    buf.reserve(room);
    let (filled, end) = (buf.len(), buf.len().saturating_add(room));
    let (got, slice) = reader.read(SliceMut::new(buf, filled, end)).await;
    (got, slice.into_inner())
}

/// See [`Writer::write_all`].
pub(crate) async fn write_all(writer: &mut impl AsyncWriteRent, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
    let total = bytes.len();
    let (first, mut bytes) = writer.write(bytes).await;
    let mut done = match first {
        Ok(n) if n == total => return (Ok(()), bytes),
        Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), bytes),
        Ok(n) => n,
        Err(e) => return (Err(e), bytes),
    };
    while done < total {
        let (more, rest) = writer.write(bytes.slice(done..)).await;
        bytes = rest.into_inner();
        match more {
            Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), bytes),
            Ok(n) => done = done.saturating_add(n),
            Err(e) => return (Err(e), bytes),
        }
    }
    (Ok(()), bytes)
}

/// Both directions together again, for TLS, which reads and writes in turns.
#[derive(Debug)]
pub(crate) struct Duplex {
    reader: OwnedReadHalf<TcpStream>,
    writer: OwnedWriteHalf<TcpStream>,
    dry: Rc<Cell<bool>>,
}

impl Duplex {
    /// While `dry` holds, reading says "would block" instead of waiting for the socket.
    pub(crate) fn new(reader: Reader, Writer(writer): Writer, dry: Rc<Cell<bool>>) -> Self {
        Self { reader: OwnedReadHalf(reader.handle.open), writer, dry }
    }
}

impl AsyncReadRent for Duplex {
    async fn read<T: IoBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        match self.dry.get() {
            true => (Err(io::ErrorKind::WouldBlock.into()), buf),
            false => self.reader.read(buf).await,
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        self.reader.readv(buf).await
    }
}

impl AsyncWriteRent for Duplex {
    async fn write<T: IoBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        self.writer.write(buf).await
    }

    async fn writev<T: IoVecBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        self.writer.writev(buf).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().await
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}

impl Handle {
    fn fd(&self) -> BorrowedFd<'_> {
        debug_assert!(Rc::strong_count(&self.open) > 0);
        // SAFETY: `self.open` holds the stream that owns this descriptor, so it stays open, and the number
        // stays its own, for as long as the borrow of `self` lasts.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn stream(&self) -> &TcpStream {
        // SAFETY: as in monoio's own halves, which share the stream in the same way: what is borrowed is the number
        // of the descriptor and the driver's place for it, and neither a read nor a write changes them.
        unsafe { &*self.open.get() }
    }

    /// Ends both directions: whoever waits is released, the peer sees the end.
    pub(crate) fn shut_both(&self) {
        // Fails only when the connection is gone already, which is what was wanted.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    /// Ends our reading: a waiting read returns. What we write still goes out.
    pub(crate) fn shut_read(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Read);
    }

    /// Tells the peer that nothing more comes. What it sends is still read.
    pub(crate) fn shut_write(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// The other end's address; `None` once the connection is gone.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        let peer = rustix::net::getpeername(self.fd()).ok()??;
        SocketAddr::try_from(peer).ok().map(|peer| peer.ip())
    }

    /// Whether an idle connection can still be used: open, and nothing unasked has arrived on it.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let peeked = rustix::net::recv(self.fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// The outcome of a connect that has become writable.
    fn connected(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::socket_error(self.fd())??)
    }

    /// io_uring waits by itself, and hands a non-blocking socket's "try again" through instead.
    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(self.fd())?;
        Ok(rustix::fs::fcntl_setfl(self.fd(), flags & !rustix::fs::OFlags::NONBLOCK)?)
    }
}
