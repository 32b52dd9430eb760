//! Threads of the process: spawn, name, pin, join, and start a dead shard again.
//!
//! A thread tells the main thread how it ended; nothing polls. A shard that dies is started again on a
//! duplicate of its listener, so connections that queue for it wait instead of being reset. It must never
//! let clients queue for one that has to wait.

use std::{
    io,
    net::TcpListener,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, mpsc::Sender},
    thread::{self, JoinHandle},
    time::Instant,
};

use obleth_ledger::Slate;
use obleth_link::ShardEnd;
use rustix::{
    net::Shutdown,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{listen::BACKLOG, restarts::Kept};

/// What reaches the main thread.
#[derive(Debug)]
pub(crate) enum News {
    /// The process got this signal.
    Signal(i32),
    /// This shard's thread is at its end.
    ShardEnded(usize, Ending),
    /// The coordinator's thread is at its end.
    CoordinatorEnded(Ending),
    /// The sidecar's thread is at its end.
    SidecarEnded(Ending),
    /// The usage log's thread is at its end.
    LogEnded(Ending),
}

/// How a thread ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Its work is done.
    Returned,
    /// It gave up.
    Failed(String),
    /// It died.
    Panicked,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Returned => f.write_str("it returned"),
            Self::Failed(cause) => f.write_str(cause),
            Self::Panicked => f.write_str("it panicked"),
        }
    }
}

/// Runs `work` on a thread of its own and reports how it ended.
///
/// # Errors
/// The kernel's, when it refuses a thread.
pub(crate) fn spawn(
    name: String,
    news: Sender<News>,
    report: impl FnOnce(Ending) -> News + Send + 'static,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(move || {
        let ending = match panic::catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => Ending::Returned,
            Ok(Err(cause)) => Ending::Failed(cause),
            Err(_) => Ending::Panicked,
        };
        // The main thread is gone only when the process is going.
        let _ = news.send(report(ending));
    })
}

/// What a shard's thread does: [`obleth_proxy::run_shard`], or a stand-in of a test.
pub(crate) type Run = fn(TcpListener, ShardEnd, Slate, Arc<obleth_proxy::Settings>) -> io::Result<()>;

/// The data plane's threads.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Shard>,
    run: Run,
    settings: Arc<obleth_proxy::Settings>,
    news: Sender<News>,
}

#[derive(Debug)]
struct Shard {
    end: ShardEnd,
    ledger: Slate,
    /// The original; the thread has a duplicate. Gone once the process drains.
    listener: Option<TcpListener>,
    processor: Option<usize>,
    thread: Kept,
}

impl Shards {
    /// Nothing runs yet.
    pub(crate) fn new(
        run: Run,
        listeners: Vec<TcpListener>,
        ends: Vec<(ShardEnd, Slate)>,
        settings: Arc<obleth_proxy::Settings>,
        news: Sender<News>,
    ) -> Self {
        let allowed = allowed_processors();
        let processor = |at: usize| allowed.get(at % allowed.len().max(1)).copied();
        let shards = listeners
            .into_iter()
            .zip(ends)
            .enumerate()
            .map(|(at, (listener, (end, ledger)))| Shard {
                end,
                ledger,
                listener: Some(listener),
                processor: processor(at),
                thread: Kept::default(),
            })
            .collect();
        Self { shards, run, settings, news }
    }

    /// Starts every shard.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread or a descriptor.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        (0..self.shards.len()).try_for_each(|at| self.start_one(at))
    }

    fn start_one(&mut self, at: usize) -> io::Result<()> {
        let Some(shard) = self.shards.get_mut(at) else { return Ok(()) };
        let Some(listener) = &shard.listener else { return Ok(()) };
        // Without effect on one that listens; one that was shut takes connections again.
        rustix::net::listen(listener, BACKLOG)?;
        let (listener, end, ledger) = (listener.try_clone()?, shard.end.clone(), shard.ledger.clone());
        let (settings, processor) = (Arc::clone(&self.settings), shard.processor);
        let run = self.run;
        let work = move || {
            if let Some(processor) = processor {
                pin(processor);
            }
            run(listener, end, ledger, settings).map_err(|error| error.to_string())
        };
        let report = move |ending| News::ShardEnded(at, ending);
        shard.thread.runs(spawn(format!("obleth-shard-{at}"), self.news.clone(), report, work)?);
        shard.end.gauges().set_missing(false);
        Ok(())
    }

    /// A shard's thread is at its end: what it had in flight is gone. While the process serves, it is due to
    /// start again; [`Shards::restart_due`] does it.
    pub(crate) fn ended(&mut self, at: usize, ending: &Ending, now: Instant) {
        let Some(shard) = self.shards.get_mut(at) else { return };
        shard.thread.join();
        // Request bodies that it held are not held any more, though nothing of a dead shard was dropped.
        shard.end.buffered.release(shard.end.gauges().buffered_bytes.get());
        shard.end.gauges().stop_serving();
        shard.end.gauges().set_missing(true);
        if let Some(listener) = &shard.listener {
            let wait = shard.thread.book(now);
            if !wait.is_zero() {
                // The kernel gives new connections to the other shards; without any, it refuses them.
                let _ = rustix::net::shutdown(listener, Shutdown::Both);
            }
            let wait_ms = wait.as_millis();
            tracing::error!(shard = at, cause = %ending, wait_ms, "a shard died and is started again");
        } else if !matches!(ending, Ending::Returned) {
            tracing::error!(shard = at, cause = %ending, "a shard died while draining");
        }
    }

    /// Starts every shard whose time has come.
    pub(crate) fn restart_due(&mut self, now: Instant) {
        for at in 0..self.shards.len() {
            let Some(shard) = self.shards.get_mut(at) else { return };
            if !shard.thread.is_due(now) {
                continue;
            }
            shard.end.gauges().restarts.add(1);
            if let Err(error) = self.start_one(at) {
                self.ended(at, &Ending::Failed(error.to_string()), now);
            }
        }
    }

    /// When [`Shards::restart_due`] has something to do next.
    pub(crate) fn next_restart(&self) -> Option<Instant> {
        self.shards.iter().filter_map(|shard| shard.thread.next()).min()
    }

    /// Whether every shard has died and has to wait: nothing serves, and nothing will for a while.
    pub(crate) fn all_have_to_wait(&self, now: Instant) -> bool {
        self.shards
            .iter()
            .all(|shard| !shard.thread.is_running() && shard.thread.next().is_some_and(|due| due > now))
    }

    /// Whether every shard accepts connections.
    pub(crate) fn all_serve(&self) -> bool {
        self.shards.iter().all(|shard| shard.end.gauges().is_serving())
    }

    /// No shard is started any more, and once a shard closes its listener, its port is closed: nobody queues
    /// for a process that goes.
    pub(crate) fn let_go(&mut self) {
        for shard in &mut self.shards {
            shard.listener = None;
            shard.thread.give_up();
        }
    }

    /// Shards whose thread runs.
    pub(crate) fn running(&self) -> Vec<usize> {
        let runs = |(at, shard): (usize, &Shard)| shard.thread.is_running().then_some(at);
        self.shards.iter().enumerate().filter_map(runs).collect()
    }
}

/// Processors that this process may run on, in order. Empty when the kernel does not say.
fn allowed_processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Shards to run where nobody says: the allowed processors, or fewer under a CPU quota.
pub(crate) fn default_shards() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread on one processor.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(processor, %error, "a shard is not pinned");
    }
}

/// Lets the process have as many connections as the system allows it.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(limit = limit.current, %error, "the limit of open descriptors stays as it is");
    }
}

/// Keeps memory at what is used. With huge pages an idle process holds three times as much, for nothing: the
/// work is the kernel's sockets, not tables of ours.
pub(crate) fn keep_pages_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        sync::mpsc,
        time::Duration,
    };

    use obleth_link::{BufferBudget, links};

    use super::*;

    #[test]
    fn a_thread_tells_how_it_ended() {
        let (news, told) = mpsc::channel();
        let end = |work: fn() -> Result<(), String>| {
            let thread = spawn("t".to_owned(), news.clone(), News::SidecarEnded, work).unwrap();
            thread.join().unwrap();
            told.recv().unwrap()
        };
        assert!(matches!(end(|| Ok(())), News::SidecarEnded(Ending::Returned)));
        assert!(matches!(end(|| Err("x".to_owned())), News::SidecarEnded(Ending::Failed(why)) if why == "x"));
        assert!(matches!(end(|| panic!("on purpose")), News::SidecarEnded(Ending::Panicked)));
    }

    /// A shard that answers each connection with a byte, and dies of the byte `!`.
    fn fragile(
        listener: TcpListener,
        _: ShardEnd,
        _: Slate,
        _: Arc<obleth_proxy::Settings>,
    ) -> io::Result<()> {
        loop {
            let (mut client, _) = listener.accept()?;
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            assert_ne!(&byte, b"!", "killed on purpose");
            client.write_all(b".")?;
        }
    }

    fn knock(at: SocketAddr, byte: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(byte).unwrap();
        client
    }

    #[test]
    fn a_dead_shard_is_started_again_and_serves_who_queued_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (link, ends) = links(1, BufferBudget::new(0)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = obleth_ledger::Options {
            dir: folder.path().to_owned(),
            node: None,
            default_node: "test".to_owned(),
            streams: 1,
            max_bytes: 1 << 20,
            sync_every: Duration::from_millis(50),
            slate_bytes: 1 << 20,
            checkpoint: None,
        };
        let slates = obleth_ledger::open(options).unwrap().slates;
        let ends = ends.into_iter().zip(slates).collect();
        let (news, told) = mpsc::channel();
        let settings = Arc::new(obleth_proxy::Settings {
            key_cache_entries: 1,
            key_max_age: Duration::ZERO,
            key_stale_ok: Duration::ZERO,
            fail_open: true,
            pepper: None,
            max_request_bytes: 0,
            admission_timeout: Duration::ZERO,
            brownout: obleth_proxy::BrownoutLimits { wait: Duration::ZERO, max_tokens: 1 },
            client: obleth_proxy::ClientLimits::default(),
            upstream_keepalive: Duration::ZERO,
            upstream_tls: obleth_proxy::UpstreamTls::of_system(),
            drain_timeout: Duration::ZERO,
            trusted_proxies: Arc::new([]),
            force_epoll: true,
            give_back: || (),
        });
        let mut shards = Shards::new(fragile, vec![listener], ends, settings, news);
        shards.start().unwrap();
        let _killer = knock(at, b"!");
        let Ok(News::ShardEnded(0, ending @ Ending::Panicked)) = told.recv() else { panic!("it died") };
        let mut queued = knock(at, b"?");
        let now = Instant::now();
        shards.ended(0, &ending, now);
        assert!(shards.running().is_empty() && shards.next_restart() == Some(now));
        assert!(link.gauges().shard(0).is_missing());
        shards.restart_due(now);
        assert!(!link.gauges().shard(0).is_missing());
        let mut answer = [0];
        queued.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, link.gauges().shard(0).restarts.get()), (b".", 1));

        // After the process let go, a death stays a death and the port closes with it.
        shards.let_go();
        let _killer = knock(at, b"!");
        let Ok(News::ShardEnded(0, ending)) = told.recv() else { panic!("it died") };
        shards.ended(0, &ending, now);
        assert_eq!((shards.next_restart(), shards.running()), (None, vec![]));
        assert!(TcpStream::connect(at).is_err());
    }

    #[test]
    fn a_pinned_thread_stays_on_its_processor() {
        let last = *allowed_processors().last().unwrap();
        let seen = thread::spawn(move || {
            pin(last);
            allowed_processors()
        });
        assert_eq!(seen.join().unwrap(), [last]);
    }
}
