//! Binds every port before any thread starts, so that a port in use is one line and an exit code.
//!
//! The data plane has one listener per shard on the same port (SO_REUSEPORT): the kernel spreads connections,
//! and no shard takes one that another has to serve. Options that connections inherit are set here, once.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use crate::exit::{Exit, Failure};

/// Connections that may wait for one shard to accept them. The kernel's `somaxconn` caps it.
pub(crate) const BACKLOG: i32 = 4096;
/// How long a port may take to fall free that a killed process had, and the pace at which it is tried.
const FREED_WITHIN: Duration = Duration::from_millis(500);
const FREED_LOOK: Duration = Duration::from_millis(10);
/// Of the time that a client's machine may be silent, this part passes before it is asked for a sign of life;
/// the kernel counts it in whole seconds.
const ASKED_AFTER: u32 = 2;
/// How often it is asked in the rest of that time.
const PROBES: u32 = 3;

/// Every listener of the process, bound.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// One per shard, all on the same address.
    pub(crate) proxy: Vec<TcpListener>,
    /// The admin API.
    pub(crate) admin: TcpListener,
    /// Metrics and probes.
    pub(crate) metrics: TcpListener,
}

/// Real addresses: port 0 has become a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// The data plane's.
    pub(crate) proxy: SocketAddr,
    /// The admin API's.
    pub(crate) admin: SocketAddr,
    /// Metrics' and probes'.
    pub(crate) metrics: SocketAddr,
}

impl Listeners {
    /// Binds all of them.
    ///
    /// # Errors
    /// 69 for a port in use or a foreign address, 77 for a port that needs privileges. Names the setting.
    pub(crate) fn bind(
        proxy: SocketAddr,
        shards: usize,
        admin: SocketAddr,
        metrics: SocketAddr,
        client_silent: Duration,
    ) -> Result<(Self, Addresses), Failure> {
        let named = |name: &'static str, address: SocketAddr| {
            move |error: io::Error| {
                let what = format!("cannot listen on {address}, which OBLETH_{name} names");
                Failure::io(Exit::Unavailable, what, &error)
            }
        };
        let shards = shared(proxy, shards, client_silent).map_err(named("PROXY_LISTEN", proxy))?;
        let admin_listener = TcpListener::bind(admin).map_err(named("ADMIN_LISTEN", admin))?;
        let metrics_listener = TcpListener::bind(metrics).map_err(named("METRICS_LISTEN", metrics))?;
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| Failure::io(Exit::OsErr, "cannot ask for a port", &error))
        };
        let first = shards.first().ok_or_else(|| Failure::new(Exit::Software, "there is no shard"))?;
        let addresses = Addresses {
            proxy: address(first)?,
            admin: address(&admin_listener)?,
            metrics: address(&metrics_listener)?,
        };
        Ok((Self { proxy: shards, admin: admin_listener, metrics: metrics_listener }, addresses))
    }
}

/// `count` listeners on one address.
fn shared(address: SocketAddr, count: usize, client_silent: Duration) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // Another process of this user that also shares the port would go unnoticed: it and we would each get
        // half of the connections. So somebody who does not share asks first.
        drop(once_free(address)?);
    }
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = one_of_many(address, client_silent)?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Binds, and waits for a moment if somebody else has the port: the kernel takes some tens of milliseconds to end the rings
/// of a process that was killed, and their listeners with them.
fn once_free(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(FREED_LOOK);
            }
            bound => return bound,
        }
    }
}

fn one_of_many(address: SocketAddr, client_silent: Duration) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // As std's listeners have it wherever the system's default was not changed: `[::]` takes IPv4 too.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    find_the_silent(&socket, client_silent)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// A client whose machine has died, or is cut off, is found after `silent`: while nothing is on the way to it, it is
/// asked for a sign of life; while something is, its acknowledgement is one. Connections inherit it.
fn find_the_silent(socket: &OwnedFd, silent: Duration) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let asked_after = Duration::from_secs((silent / ASKED_AFTER).as_secs()).max(second);
    let pace = Duration::from_secs((silent.saturating_sub(asked_after) / PROBES).as_secs()).max(second);
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, asked_after)?;
    sockopt::set_tcp_keepintvl(socket, pace)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    // Counts for unanswered probes as well, and then in place of their number (tcp(7)).
    sockopt::set_tcp_user_timeout(socket, u32::try_from(silent.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
    const SILENT: Duration = Duration::from_secs(30);

    #[test]
    fn all_shards_share_the_port_that_the_first_got() {
        let (listeners, addresses) = Listeners::bind(ANY, 8, ANY, ANY, SILENT).unwrap();
        assert_eq!(listeners.proxy.len(), 8);
        assert!(listeners.proxy.iter().all(|one| one.local_addr().unwrap() == addresses.proxy));
        assert_ne!(addresses.admin, addresses.metrics);
    }

    #[test]
    fn a_port_in_use_is_found_even_if_its_owner_would_share_it() {
        let sharing = shared(ANY, 1, SILENT).unwrap();
        let taken = sharing[0].local_addr().unwrap();
        let line = Listeners::bind(taken, 2, ANY, ANY, SILENT).unwrap_err().to_string();
        assert!(line.contains("OBLETH_PROXY_LISTEN") && line.contains(&taken.to_string()), "{line}");
        let line = Listeners::bind(ANY, 2, taken, ANY, SILENT).unwrap_err().to_string();
        assert!(line.contains("OBLETH_ADMIN_LISTEN"), "{line}");
    }

    #[test]
    fn accepted_connections_inherit_what_finds_a_dead_client() {
        for (silent_ms, asked_after, pace) in [(30_000, 15, 5), (2000, 1, 1), (3_600_000, 1800, 600)] {
            let listeners = shared(ANY, 1, Duration::from_millis(silent_ms)).unwrap();
            let _client = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
            let (accepted, _) = listeners[0].accept().unwrap();
            assert!(sockopt::tcp_nodelay(&accepted).unwrap());
            assert!(sockopt::socket_keepalive(&accepted).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(asked_after));
            assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), Duration::from_secs(pace));
            assert_eq!(u64::from(sockopt::tcp_user_timeout(&accepted).unwrap()), silent_ms);
        }
    }

    #[test]
    fn a_duplicate_keeps_queued_connections_alive() {
        use std::io::{Read, Write};
        let mut listeners = shared(ANY, 1, SILENT).unwrap();
        let kept = listeners[0].try_clone().unwrap();
        let mut client = TcpStream::connect(kept.local_addr().unwrap()).unwrap();
        client.write_all(b"x").unwrap();
        drop(listeners.remove(0));
        let (mut accepted, _) = kept.accept().unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
