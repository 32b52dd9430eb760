//! The data plane: sockets and tasks on monoio, one shard per core.
//!
//! [`run_shard`] and [`run_coordinator`] are the whole interface: the binary calls each on a thread of its own, with
//! its end of the link, a shard's with a listener. Everything else in here runs on a shard's one thread, so state is
//! shared by `Rc` and `Cell`, without a lock.
//!
//! | file | what |
//! |---|---|
//! | `runtime` | io_uring, or epoll where it is not to be had |
//! | `shard` | everything that one core owns, and its life from start to drain |
//! | `death` | what a shard that dies leaves behind, and how it goes |
//! | `coordinator` | the thread that decides who gets the next slot |
//! | `slots`, `credits` | a shard's dealings with it, for slots and for credits of limits |
//! | `reminder` | when there is something to say to it |
//! | `listener` | accepts, and keeps a panic inside its connection |
//! | `downstream` | one client connection |
//! | `buffers` | buffers that are used again |
//! | `pool`, `connect` | connections to backends |
//! | `trouble` | what backends do wrong, in the log |
//! | `bench` | backends that took no connection a moment ago |
//! | `keycache` | keys that this core knows |
//! | `timer` | clocks and deadlines |
//! | `tls` | TLS to backends |
//! | `socket` | a TCP socket that is shut down, never cancelled |
//! | `request` | the path of a request, one file per stage |

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod bench;
mod buffers;
mod connect;
mod coordinator;
mod credits;
mod death;
mod downstream;
mod keycache;
mod listener;
mod pool;
mod reminder;
mod request;
mod runtime;
mod shard;
mod slots;
mod socket;
mod timer;
mod tls;
mod trouble;

use std::{io, net::TcpListener, rc::Rc, sync::Arc, time::Duration};

use obleth_ledger::Slate;
use obleth_link::ShardEnd;
use obleth_policy::{key::Pepper, network::Cidr};

pub use coordinator::run_coordinator;
pub use obleth_policy::coordinator::Limits as QueueLimits;
pub use tls::{CaFault, UpstreamTls};

/// What a shard must know before it starts. The same for all shards.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys that one shard remembers, `OBLETH_KEY_CACHE_ENTRIES`.
    pub key_cache_entries: usize,
    /// Age from which a remembered key is looked up again, `OBLETH_KEY_MAX_AGE_MS`.
    pub key_max_age: Duration,
    /// How long a key ever seen works while no store answers, `OBLETH_KEY_STALE_OK_SECS`.
    pub key_stale_ok: Duration,
    /// Whether known keys get through when no store answers, or nobody says what their limits have left,
    /// `OBLETH_FAIL_OPEN`.
    pub fail_open: bool,
    /// Digests are keyed with it, `OBLETH_API_KEY_PEPPER`.
    pub pepper: Option<Pepper>,
    /// Largest request body, `OBLETH_MAX_REQUEST_BYTES`.
    pub max_request_bytes: u64,
    /// Longest wait for a slot, `OBLETH_ADMISSION_TIMEOUT_MS`.
    pub admission_timeout: Duration,
    /// What happens when the wait is long.
    pub brownout: BrownoutLimits,
    /// How slow a client may be.
    pub client: ClientLimits,
    /// Idle time after which a pooled connection to a backend is closed, `OBLETH_UPSTREAM_KEEPALIVE_MS`.
    pub upstream_keepalive: Duration,
    /// Whom backends' certificates must be signed by, `OBLETH_UPSTREAM_CA_FILE`.
    pub upstream_tls: UpstreamTls,
    /// How long a drain waits for what is in flight, `OBLETH_DRAIN_TIMEOUT_SECS`.
    pub drain_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` counts, `OBLETH_TRUSTED_PROXIES`.
    pub trusted_proxies: Arc<[Cidr]>,
    /// Use epoll also where io_uring is to be had, `MONOIO_FORCE_LEGACY_DRIVER`.
    pub force_epoll: bool,
    /// Called by a shard that has become quiet: what it has freed may go back to the system.
    pub give_back: fn(),
}

/// When a wait for a slot is long, and what an answer is shortened to then.
#[derive(Clone, Copy, Debug)]
pub struct BrownoutLimits {
    /// A longer wait, predicted or real, has the tenant's policy applied, `OBLETH_BROWNOUT_WAIT_MS`.
    pub wait: Duration,
    /// Output tokens of a shortened answer, `OBLETH_BROWNOUT_MAX_TOKENS`.
    pub max_tokens: u32,
}

/// How slow a client may be.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// From a head's first byte to its last, `OBLETH_CLIENT_HEAD_TIMEOUT_MS`.
    pub head: Duration,
    /// The longest pause in a body, `OBLETH_CLIENT_BODY_PAUSE_MS`.
    pub body_pause: Duration,
    /// A connection without a request, `OBLETH_CLIENT_IDLE_TIMEOUT_MS`.
    pub idle: Duration,
    /// One write that the client does not take in, `OBLETH_CLIENT_WRITE_TIMEOUT_MS`.
    pub write: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        let (head, body_pause) = (Duration::from_secs(10), Duration::from_secs(30));
        Self { head, body_pause, idle: Duration::from_secs(75), write: Duration::from_secs(60) }
    }
}

/// Runs one shard on the calling thread until a `Drain` command has been carried out.
///
/// # Errors
/// The kernel's, when neither io_uring nor epoll can be set up, or the listener cannot be used; or a part of the shard
/// that it cannot do without has panicked.
///
/// # Panics
/// When the runtime does. Then, as after an error, nothing of the shard is left but the listener.
pub fn run_shard(
    listener: TcpListener,
    end: ShardEnd,
    ledger: Slate,
    settings: Arc<Settings>,
) -> io::Result<()> {
    let remains = death::Remains::default();
    let force_epoll = settings.force_epoll;
    let start = |driver| shard::Shard::start(listener, (end, ledger), settings, driver, Rc::clone(&remains));
    runtime::run(force_epoll, start, || death::bury(Rc::clone(&remains)))
}
