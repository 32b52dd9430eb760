//! A shard with a played sidecar and a simulated backend.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use obleth_ledger::{Options, Slate};
use obleth_link::{BufferBudget, Command, Event, Order, Report, SidecarEnd, links};
use obleth_policy::{
    cost::Rates,
    id::{EndpointId, GroupId, GroupIx, KeyId, ModelId, PoolIx, TenantId, TenantIx},
    key::{KeyAnswer, KeyDigest, KeyRecord},
    limit::{Definition, LimitBook, Limits, Measure, Scope, Turn},
    network::NetworkGrant,
    price::Prices,
    snapshot::{Brownout, Division, Endpoint, Model, ModelGrant, Snapshot, Tenant, TenantStatus, Timers},
    unit::{LimitMs, UnixMs},
};
use obleth_proxy::{BrownoutLimits, ClientLimits, QueueLimits, Settings};
use uuid::Uuid;

/// Each test runs on io_uring and on epoll.
pub(crate) const BOTH_DRIVERS: [bool; 2] = [false, true];
/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module's text. Dropping it ends the shard.
pub(crate) struct Rig {
    address: SocketAddr,
    sidecar: SidecarEnd,
    backend: SocketAddr,
    _simulated: Option<obleth_upstream::Handle>,
    played: Arc<Played>,
    shard: Option<JoinHandle<()>>,
    player: Option<JoinHandle<()>>,
    coordinator: Option<JoinHandle<()>>,
}

/// What the sidecar's player saw, and what it is told.
#[derive(Default)]
struct Played {
    silent: AtomicBool,
    stop: AtomicBool,
    lookups: AtomicUsize,
    retired: Mutex<Vec<u64>>,
}

impl Rig {
    /// With the simulated backend.
    pub(crate) fn start(force_epoll: bool, adjust: impl FnOnce(&mut Settings)) -> Self {
        let simulated = obleth_upstream::spawn(obleth_upstream::Options::default()).unwrap();
        let rig = Self::before_snapshot(force_epoll, simulated.addr, adjust);
        rig.publish(1);
        rig.until("the shard serves", || rig.sidecar.gauges().shard(0).is_serving());
        rig.keep(simulated)
    }

    /// With a backend of the test's own.
    pub(crate) fn in_front_of(force_epoll: bool, backend: SocketAddr) -> Self {
        let rig = Self::before_snapshot(force_epoll, backend, |_| ());
        rig.publish(1);
        rig.until("the shard serves", || rig.sidecar.gauges().shard(0).is_serving());
        rig
    }

    /// A shard that has no configuration yet.
    pub(crate) fn before_snapshot(
        force_epoll: bool,
        backend: SocketAddr,
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings(force_epoll);
        adjust(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sidecar, mut ends) = links(1, BufferBudget::new(1 << 30)).unwrap();
        let end = ends.remove(0);
        let played = Arc::new(Played::default());
        let shard = std::thread::spawn(move || {
            obleth_proxy::run_shard(listener, end, slate(), Arc::new(settings)).unwrap();
        });
        let player = std::thread::spawn({
            let (sidecar, played) = (sidecar.clone(), Arc::clone(&played));
            move || play(&sidecar, &played)
        });
        let desk = sidecar.coordinator();
        let coordinator = std::thread::spawn(move || {
            let limits = QueueLimits { queue: 1000, tenant_queue: 1000 };
            obleth_proxy::run_coordinator(desk, limits).unwrap();
        });
        let (shard, player, coordinator) = (Some(shard), Some(player), Some(coordinator));
        // What is ordered of a coordinator before it says that it has started is void.
        let begun = std::time::Instant::now();
        while !matches!(sidecar.take_report(), Some(Report::Started)) {
            assert!(begun.elapsed() < PATIENCE, "the coordinator does not start");
            std::thread::yield_now();
        }
        Self { address, sidecar, backend, _simulated: None, played, shard, player, coordinator }
    }

    fn keep(mut self, simulated: obleth_upstream::Handle) -> Self {
        self._simulated = Some(simulated);
        self
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One request on a connection of its own; everything that comes back.
    pub(crate) fn request(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// The sidecar answers no more.
    pub(crate) fn silence(&self) {
        self.played.silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn send(&self, command: Command) {
        self.sidecar.send(0, command).unwrap();
    }

    pub(crate) fn publish(&self, generation: u64) {
        let snapshot = snapshot(generation, self.backend);
        self.sidecar.order(Order::Shares(Arc::clone(snapshot.shares()))).unwrap();
        self.send(Command::Snapshot(snapshot));
    }

    /// Tells the owner of the limits what they are; until then it says nothing of them.
    pub(crate) fn publish_limits(&self) {
        let scope = Scope::Key(KeyId(Uuid::from_u128(LIMITED)));
        let (day, month) = (Turn::FOREVER, Turn::FOREVER);
        let definitions = vec![Definition { scope, limits: limits(), day, month }];
        let book = LimitBook { definitions, ..LimitBook::default() };
        self.sidecar.order(Order::Limits(Arc::new(book))).unwrap();
    }

    /// Requests that nobody said the limits of in time.
    pub(crate) fn unfunded(&self) -> u64 {
        self.sidecar.gauges().sum(|shard| &shard.unfunded)
    }

    pub(crate) fn lookups(&self) -> usize {
        self.played.lookups.load(Ordering::SeqCst)
    }

    /// Generations that came home.
    pub(crate) fn retired(&self) -> Vec<u64> {
        self.played.retired.lock().unwrap().clone()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.sidecar.gauges().sum(|shard| &shard.in_flight)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.sidecar.gauges().sum(|shard| &shard.connections)
    }

    /// Processor time of the shard's thread.
    pub(crate) fn shard_cpu(&self) -> Duration {
        let thread = self.sidecar.gauges().shard(0).thread.get();
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
        Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "it never came about that {what}");
            std::thread::yield_now();
        }
    }

    /// The shard has to end by itself.
    pub(crate) fn join(&mut self) {
        let shard = self.shard.take().unwrap();
        self.until("the shard has ended", || shard.is_finished());
        shard.join().unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.sidecar.send(0, Command::Drain);
        if let Some(shard) = self.shard.take() {
            let _ = shard.join();
        }
        self.played.stop.store(true, Ordering::SeqCst);
        if let Some(player) = self.player.take() {
            let _ = player.join();
        }
        let _ = self.sidecar.order(Order::Stop);
        if let Some(coordinator) = self.coordinator.take() {
            let _ = coordinator.join();
        }
    }
}

/// Somewhere to note requests; nobody copies it into a log. The file goes, the memory stays.
pub(crate) fn slate() -> Slate {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        dir: folder.path().to_owned(),
        node: None,
        default_node: "test".to_owned(),
        streams: 1,
        max_bytes: 1 << 20,
        sync_every: Duration::from_millis(50),
        slate_bytes: 1 << 20,
        checkpoint: None,
    };
    obleth_ledger::open(options).unwrap().slates.remove(0)
}

/// Of a shard that is in no hurry.
pub(crate) fn settings(force_epoll: bool) -> Settings {
    Settings {
        key_cache_entries: 100,
        key_max_age: Duration::from_secs(10),
        key_stale_ok: Duration::from_secs(1000),
        fail_open: true,
        pepper: None,
        max_request_bytes: 64 << 20,
        admission_timeout: Duration::from_secs(60),
        brownout: BrownoutLimits { wait: Duration::from_millis(750), max_tokens: 256 },
        client: ClientLimits::default(),
        upstream_keepalive: Duration::from_secs(4),
        upstream_tls: obleth_proxy::UpstreamTls::of_system(),
        drain_timeout: Duration::from_secs(5),
        trusted_proxies: Arc::new([]),
        force_epoll,
        give_back: || (),
    }
}

fn play(sidecar: &SidecarEnd, played: &Played) {
    while !played.stop.load(Ordering::SeqCst) {
        while let Some(event) = sidecar.take(0) {
            let reply = match event {
                Event::Started => None,
                Event::KeyLookup(digest) => {
                    played.lookups.fetch_add(1, Ordering::SeqCst);
                    let silent = played.silent.load(Ordering::SeqCst);
                    (!silent).then(|| Command::KeyAnswer(digest, answer(digest)))
                }
                Event::Retired(snapshot) => {
                    played.retired.lock().unwrap().push(snapshot.generation);
                    None
                }
            };
            if let Some(command) = reply {
                sidecar.send(0, command).unwrap();
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn answer(digest: KeyDigest) -> KeyAnswer {
    let key = |n, limits| {
        let unlimited = KeyRecord::unlimited(KeyId(Uuid::from_u128(n)), TenantId(Uuid::from_u128(2)));
        KeyAnswer::Found(Arc::new(KeyRecord { limits, ..unlimited }))
    };
    match digest {
        digest if digest == KeyDigest::of(b"sk_known", None) => key(1, Limits::NONE),
        digest if digest == KeyDigest::of(b"sk_limited", None) => key(LIMITED, limits()),
        _ => KeyAnswer::Unknown,
    }
}

/// The id of the key `sk_limited`.
const LIMITED: u128 = 4;

/// Its limits: a lifetime of some tokens.
fn limits() -> Limits {
    Limits::NONE.with(Measure::LifetimeTokens, Some(400))
}

fn snapshot(generation: u64, backend: SocketAddr) -> Arc<Snapshot> {
    let limit = LimitMs(60_000);
    let connect = LimitMs(100);
    let model = Model {
        id: ModelId(Uuid::from_u128(3)),
        pool: PoolIx(0),
        name: "demo".into(),
        aliases: Vec::new(),
        enabled: true,
        upstream_model: None,
        max_in_flight: 32,
        created: UnixMs(0),
        max_model_len: None,
        endpoints: vec![Endpoint {
            id: EndpointId(Uuid::from_u128(4)),
            revision: 1,
            tls: None,
            authority: backend.to_string().into(),
            base_path: "/v1".into(),
            addresses: vec![backend].into(),
            credential: None,
        }],
        timers: Timers { connect, first_byte: limit, idle: limit, total: LimitMs(0) },
        rates: Rates::default(),
        sends_priority: false,
        continuous_usage: false,
        prices: Prices::default(),
    };
    let tenant = Tenant {
        id: TenantId(Uuid::from_u128(2)),
        ix: TenantIx(0),
        name: "tenant".into(),
        status: TenantStatus::Active,
        weight: 100,
        group: GroupIx::DEFAULT,
        group_id: GroupId(Uuid::nil()),
        max_in_flight: None,
        brownout: Brownout::Never,
        grant: ModelGrant::All,
        networks: NetworkGrant::All,
        limits: Limits::NONE,
        group_limits: Limits::NONE,
    };
    let division = Division { ceiling: 1000, groups: Vec::new() };
    Arc::new(Snapshot::new(generation, vec![model], vec![tenant], division))
}

/// A chat request with this key and these further header lines.
pub(crate) fn chat(key: &str, headers: &str) -> String {
    post(key, headers, r#"{"model":"demo","messages":[{"role":"user","content":"hi"}]}"#)
}

/// The same, streamed, with a key that works.
pub(crate) fn chat_stream(headers: &str) -> String {
    post("sk_known", headers, r#"{"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]}"#)
}

fn post(key: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
