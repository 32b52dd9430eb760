//! A connected TCP socket with its two directions apart, and a way to end what waits on it.
//!
//! On io_uring a read or write that has begun must be awaited to its end: dropping it loses bytes. So nothing
//! here is cancelled. To end a wait, the socket is shut down; the kernel then completes the operation, and
//! whoever awaits it gets it back. This works the same on both drivers.

#![allow(unsafe_code)] // one borrow of a descriptor, below

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
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

/// The reading direction. One read at a time.
#[derive(Debug)]
pub(crate) struct Reader(OwnedReadHalf<TcpStream>);

/// The writing direction. One write at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf<TcpStream>,
    handle: Handle,
}

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
    let fd = stream.as_raw_fd();
    let open = Rc::new(UnsafeCell::new(stream));
    let handle = Handle { fd, open: Rc::clone(&open) };
    let writer = Writer { half: OwnedWriteHalf(Rc::clone(&open)), handle: handle.clone() };
    (Reader(OwnedReadHalf(open)), writer, handle)
}

impl Reader {
    /// Appends up to `room` bytes to `buf`. `Ok(0)` is the end. Must be awaited to its end.
    pub(crate) async fn append(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        append(&mut self.0, buf, room).await
    }

    /// Fills an empty buffer up to its capacity. `Ok(0)` is the end. Must be awaited to its end.
    pub(crate) async fn fill<B: IoBufMut>(&mut self, buf: B) -> BufResult<usize, B> {
        self.0.read(buf).await
    }
}

impl Writer {
    /// Writes all of `bytes`. Must be awaited to its end.
    ///
    /// Nearly always the kernel has room for all of it. Then a plain call is done at once, where the ring would have to
    /// be waited for; the ring is for what does not fit.
    pub(crate) async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self.handle.send_now(&bytes) {
            Ok(sent) if sent == bytes.len() => (Ok(()), bytes),
            Ok(sent) => write_from(&mut self.half, bytes, sent).await,
            Err(error) => (Err(error), bytes),
        }
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

/// Writes all of `bytes` from `done` on. Must be awaited to its end.
pub(crate) async fn write_from(
    writer: &mut impl AsyncWriteRent,
    mut bytes: Vec<u8>,
    mut done: usize,
) -> (io::Result<()>, Vec<u8>) {
    while done < bytes.len() {
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
    reader: Reader,
    writer: Writer,
    dry: Rc<Cell<bool>>,
}

impl Duplex {
    /// While `dry` holds, reading says "would block" instead of waiting for the socket.
    pub(crate) fn new(reader: Reader, writer: Writer, dry: Rc<Cell<bool>>) -> Self {
        Self { reader, writer, dry }
    }
}

impl AsyncReadRent for Duplex {
    async fn read<T: IoBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        match self.dry.get() {
            true => (Err(io::ErrorKind::WouldBlock.into()), buf),
            false => self.reader.0.read(buf).await,
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        self.reader.0.readv(buf).await
    }
}

impl AsyncWriteRent for Duplex {
    async fn write<T: IoBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        self.writer.half.write(buf).await
    }

    async fn writev<T: IoVecBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        self.writer.half.writev(buf).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.writer.half.flush().await
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.half.shutdown().await
    }
}

impl Handle {
    fn fd(&self) -> BorrowedFd<'_> {
        debug_assert!(Rc::strong_count(&self.open) > 0);
        // SAFETY: `self.open` holds the stream that owns this descriptor, so it stays open, and the number
        // stays its own, for as long as the borrow of `self` lasts.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
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

    /// Gives the kernel what it has room for, and says how much that is.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Whether an idle connection can still be used: open, and nothing unasked has arrived on it.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let peeked = rustix::net::recv(self.fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(Errno::AGAIN))
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
