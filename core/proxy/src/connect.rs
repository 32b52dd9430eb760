//! New connections to a backend.
//!
//! The socket is ours before the connect begins, so that giving up is closing it: no connect future is ever
//! cancelled. Only addresses come here; names are resolved off the shards.

use std::{io, net::SocketAddr, time::Duration};

use obleth_link::Driver;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::socket::{Connecting, Handle, Reader, Writer};

/// A backend that is silent this long is asked whether it is still there…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// …and asked again at this pace…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// …this many times: one whose machine died is given up after 30 s.
const KEEPALIVE_PROBES: u32 = 3;

/// Begins a connection and waits until it stands. May be dropped at any time; the connection is then given up.
pub(crate) async fn connect(driver: Driver, address: SocketAddr) -> io::Result<(Reader, Writer, Handle)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Without it, the last piece of a request waits up to 40 ms for an acknowledgement.
    sockopt::set_tcp_nodelay(&fd, true)?;
    // A backend whose machine has died is missed while its answer is waited for. No limit on what it has yet to
    // take in: a busy one may leave a large body lying, and the time limits of the request count for that.
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&fd, KEEPALIVE_PROBES)?;
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
