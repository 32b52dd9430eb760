//! The sidecar's thread: what the configuration means for it, its start, its end, and its return after a fault.
//!
//! Traffic does not depend on it. If it dies it is opened again, if need be without the usage ledger; if that fails, the shards go on with what
//! they know.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use obleth_admin::{CheckpointError, OpenError, Settings, Sidecar, StopSignal};
use obleth_ledger::Tail;
use obleth_link::SidecarEnd;

use crate::{
    exit::{Exit, Failure},
    restarts::{Kept, Restart},
    threads::{News, spawn},
};

/// How long the sidecar may take to answer its first request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Pace at which the wait looks whether the thread still runs.
const ANSWER_LOOK: Duration = Duration::from_millis(100);
/// How long the process waits for the sidecar when it ends. What it still has to say is in the store by then.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the sidecar works with. Kept for another start.
#[derive(Debug)]
struct Tools {
    settings: Settings,
    link: SidecarEnd,
    tail: Tail,
    admin: TcpListener,
    metrics: TcpListener,
    stop: StopSignal,
}

impl Tools {
    fn run(&self, sidecar: Sidecar) -> io::Result<()> {
        let listeners = (self.admin.try_clone()?, self.metrics.try_clone()?);
        sidecar.run((self.link.clone(), self.tail.clone()), listeners, self.stop.clone())
    }
}

/// The running sidecar. On drop it is stopped, within [`STOP_WITHIN`].
#[derive(Debug)]
pub(crate) struct SidecarThread {
    tools: Arc<Tools>,
    thread: Kept,
    news: Sender<News>,
}

impl SidecarThread {
    /// Runs an opened sidecar; `settings` are those that it was opened with.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread.
    pub(crate) fn start(
        sidecar: Sidecar,
        settings: Settings,
        (link, tail): (SidecarEnd, Tail),
        (admin, metrics): (TcpListener, TcpListener),
        news: Sender<News>,
    ) -> io::Result<Self> {
        let tools = Arc::new(Tools { settings, link, tail, admin, metrics, stop: StopSignal::new() });
        let mut this = Self { tools, thread: Kept::default(), news };
        this.run(Some(sidecar))?;
        Ok(this)
    }

    /// With an opened sidecar, or one that it opens itself.
    fn run(&mut self, opened: Option<Sidecar>) -> io::Result<()> {
        let tools = Arc::clone(&self.tools);
        let work = move || {
            let sidecar = match opened {
                Some(sidecar) => sidecar,
                None => Sidecar::reopen(tools.settings.clone()).map_err(|error| error.to_string())?,
            };
            tools.run(sidecar).map_err(|error| error.to_string())
        };
        self.thread.runs(spawn("obleth-sidecar".to_owned(), self.news.clone(), News::SidecarEnded, work)?);
        Ok(())
    }

    /// Waits until the sidecar answers on one of its listeners. The port is bound, so a connection stands at
    /// once and the answer comes as soon as there is one.
    ///
    /// # Errors
    /// The thread ended instead, or does not answer HTTP in time.
    pub(crate) fn wait_for_answer(&self, address: SocketAddr, path: &str) -> Result<(), Failure> {
        let no = |why: &str| {
            Failure::new(Exit::Software, format!("the sidecar does not answer on {address}: {why}"))
        };
        let ask = || -> io::Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&reachable(address), ANSWER_WITHIN)?;
            stream.set_read_timeout(Some(ANSWER_LOOK))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            Ok(stream)
        };
        let mut stream = ask().map_err(|error| no(&error.to_string()))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Ok(1) if &byte == b"H" => return Ok(()),
                Ok(_) => return Err(no("it does not speak HTTP")),
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    return Err(no(&error.to_string()));
                }
                Err(_) if self.thread.is_finished() => {
                    return Err(no("it ended"));
                }
                Err(_) if Instant::now() > deadline => return Err(no("it is silent")),
                Err(_) => {}
            }
        }
    }
}

impl Restart for SidecarThread {
    const DEATH: &'static str = "the sidecar died and is started again; traffic goes on";

    fn kept(&mut self) -> &mut Kept {
        &mut self.thread
    }

    fn spawn(&mut self) -> io::Result<()> {
        self.run(None)
    }
}

impl Drop for SidecarThread {
    fn drop(&mut self) {
        self.tools.stop.trigger();
        if !self.thread.ends_within(STOP_WITHIN) {
            tracing::warn!("the sidecar does not stop; the process ends without it");
        }
    }
}

/// The end of a start whose store cannot be used.
pub(crate) fn open_failure(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::Create { source, .. } => Exit::CantCreate.unless(source),
        OpenError::Unreadable { .. } | OpenError::Damaged { .. } | OpenError::Full { .. } => Exit::IoErr,
        OpenError::Checkpoint(CheckpointError::Unreadable { source, .. }) => Exit::IoErr.unless(source),
        OpenError::NotADatabase { .. }
        | OpenError::NewerSchema { .. }
        | OpenError::AlteredSchema { .. }
        | OpenError::WrongMasterKey { .. }
        | OpenError::Checkpoint(_) => Exit::Config,
        OpenError::Locked { .. } => Exit::TempFail,
        OpenError::DefaultUpstream(_) => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}

/// Where a listener can be reached from this machine.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()).to_string(), "10.0.0.1:80");
    }
}
