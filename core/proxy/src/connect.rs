//! New connections to a backend.
//!
//! The socket is ours before the connect begins, so that giving up is closing it: no connect future is ever
//! cancelled. Only addresses come here; names are resolved off the shards.

use std::{io, net::SocketAddr};

use obleth_link::Driver;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::socket::{Connecting, Handle, Reader, Writer};

/// Begins a connection and waits until it stands. May be dropped at any time; the connection is then given up.
pub(crate) async fn connect(driver: Driver, address: SocketAddr) -> io::Result<(Reader, Writer, Handle)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Without it, the last piece of a request waits up to 40 ms for an acknowledgement.
    sockopt::set_tcp_nodelay(&fd, true)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let (reader, writer, handle) = Connecting::new(fd)?.established().await?;
    if driver == Driver::IoUring {
        handle.set_blocking()?;
    }
    Ok((reader, writer, handle))
}
