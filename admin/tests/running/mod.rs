//! A sidecar that runs, the shards' and the coordinator's ends of its link in the test's hands, and a client that
//! speaks plain HTTP.
//!
//! Shared by the tests of this folder; not every one of them uses all of it.

#![allow(dead_code)]

mod ledger;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use obleth_admin::{DefaultUpstream, MasterKey, OpenError, Settings, Sidecar, StopSignal, UsageSettings};
use obleth_ledger::Options;
use obleth_link::{BufferBudget, Command, CoordinatorEnd, Doorbell, Event, Order, ShardEnd, links};
use obleth_policy::{
    key::{KeyAnswer, KeyDigest},
    snapshot::{Brownout, Secret, Timers},
    unit::LimitMs,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use ledger::Record;

/// The admin token of every test.
pub(crate) const TOKEN: &str = "obleth_admin_0123456789abcdef";
/// Longest wait for what must come; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pace at which is looked for what nobody tells.
const LOOK: Duration = Duration::from_millis(10);

/// See the module's text. Stops on drop.
pub(crate) struct Running {
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) shards: Vec<Shard>,
    pub(crate) coordinator: CoordinatorEnd,
    pub(crate) settings: Settings,
    pub(crate) dir: TempDir,
    stop: StopSignal,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// One shard's end of the link.
#[derive(Clone)]
pub(crate) struct Shard(pub(crate) ShardEnd);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Settings for a store in `dir`.
pub(crate) fn settings(dir: &TempDir) -> Settings {
    Settings {
        database: dir.path().join("obleth.db"),
        usage: UsageSettings {
            database: dir.path().join("usage.db"),
            log: dir.path().join("wal"),
            retention_days: 0,
            clickhouse: None,
            give_back: || (),
        },
        master_key: MasterKey::parse(&"07".repeat(32)).unwrap(),
        admin_token: Secret::new(TOKEN),
        pepper: None,
        networks: obleth_admin::Networks::default(),
        known_names: obleth_admin::KnownNames::default(),
        default_upstream: None,
        default_timers: Timers { connect: LimitMs(2000), ..Timers::default() },
        default_model_max_in_flight: 32,
        global_max_in_flight: 256,
        brownout_default: Brownout::Never,
        alert_webhook: None,
        key_cache_entries: 100,
        version: "1.2.3",
        commit: "abcdef",
    }
}

impl Running {
    /// With two shards and a fresh store.
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same with other settings.
    pub(crate) fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&dir);
        change(&mut settings);
        Self::start_in(dir, settings).unwrap()
    }

    /// With a default upstream.
    pub(crate) fn start_with_default_upstream() -> Self {
        let upstream = DefaultUpstream { base_url: "http://127.0.0.9:9".into(), api_key: None };
        Self::start_with(|settings| settings.default_upstream = Some(upstream))
    }

    /// On a store that may be there already.
    pub(crate) fn start_in(dir: TempDir, settings: Settings) -> Result<Self, OpenError> {
        let sidecar = Sidecar::open(settings.clone())?;
        Ok(Self::run(sidecar, dir, settings))
    }

    /// One that is opened again after a fault of the last.
    pub(crate) fn start_again_in(dir: TempDir, settings: Settings) -> Self {
        let sidecar = Sidecar::reopen(settings.clone()).unwrap();
        Self::run(sidecar, dir, settings)
    }

    fn run(sidecar: Sidecar, dir: TempDir, settings: Settings) -> Self {
        let (link, ends) = links(2, BufferBudget::new(0)).unwrap();
        let coordinator = link.coordinator();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (admin, metrics) = (bind(), bind());
        let addresses = (admin.local_addr().unwrap(), metrics.local_addr().unwrap());
        let stop = StopSignal::new();
        let signal = stop.clone();
        // Nothing is noted here, so nobody has to write it down.
        let tail = obleth_ledger::open(Options {
            dir: dir.path().join("wal"),
            node: None,
            default_node: "test".to_owned(),
            streams: 1,
            max_bytes: 1 << 20,
            sync_every: Duration::from_millis(50),
            slate_bytes: 1 << 20,
            checkpoint: sidecar.checkpoint(),
        });
        let tail = tail.unwrap().tail;
        let thread = thread::spawn(move || sidecar.run((link, tail), (admin, metrics), signal));
        let running = Self {
            admin: addresses.0,
            metrics: addresses.1,
            shards: ends.into_iter().map(Shard).collect(),
            coordinator,
            settings,
            dir,
            stop,
            thread: Some(thread),
        };
        // The first words to every shard are the snapshot and that any key may have changed.
        for shard in &running.shards {
            assert!(matches!(shard.next(), Command::Snapshot(_)));
            assert!(matches!(shard.next(), Command::AllKeysChanged));
        }
        running
    }

    /// Stops it and hands its folder and settings over.
    pub(crate) fn stop(mut self) -> (TempDir, Settings) {
        self.halt();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (dir, self.settings.clone())
    }

    fn halt(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    /// The database from outside.
    pub(crate) fn outside(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.settings.database).unwrap()
    }

    /// Puts records into the usage ledger from outside, as if they had been shipped.
    pub(crate) fn record(&self, records: impl IntoIterator<Item = Record>) {
        let mut conn = rusqlite::Connection::open(&self.settings.usage.database).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        let tx = conn.transaction().unwrap();
        records.into_iter().for_each(|record| record.insert(&tx));
        tx.commit().unwrap();
    }

    /// The database and its companions.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let name = |suffix: &str| PathBuf::from(format!("{}{suffix}", self.settings.database.display()));
        ["", "-wal", "-shm"].into_iter().map(name).filter(|path| path.exists()).collect()
    }

    /// An admin request with the token and curl's own content type.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let authorization = format!("Bearer {TOKEN}");
        let headers =
            [("Authorization", &*authorization), ("Content-Type", "application/x-www-form-urlencoded")];
        send(self.admin, (method, &format!("/api/v1{path}")), &headers, body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    /// A request that must answer with `status`; its JSON.
    pub(crate) fn expect(&self, status: u16, (method, path): (&str, &str), body: &str) -> Value {
        let answer = self.send(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        answer.json()
    }

    /// A fresh tenant's id.
    pub(crate) fn tenant(&self, name: &str) -> String {
        let tenant = self.expect(201, ("POST", "/tenants"), &format!(r#"{{"name":"{name}"}}"#));
        tenant["id"].as_str().unwrap().to_owned()
    }

    /// A fresh key: its id and its secret.
    pub(crate) fn key(&self, tenant: &str, name: &str) -> (String, String) {
        let path = format!("/tenants/{tenant}/keys");
        let key = self.expect(201, ("POST", &path), &format!(r#"{{"name":"{name}"}}"#));
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    /// Rotates a key: its id and its new secret.
    pub(crate) fn rotate(&self, id: &str, body: &str) -> (String, String) {
        let key = self.expect(201, ("POST", &format!("/keys/{id}/rotate")), body);
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    /// Throws away what the shards and the coordinator were told so far.
    pub(crate) fn hush(&self) {
        while self.coordinator.take_order().is_some() {}
        for shard in &self.shards {
            while shard.0.take().is_some() {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            // The test has judged already; a second panic would only hide the first.
            let _ = thread.join();
        }
    }
}

impl Shard {
    /// The next command; waits for it.
    pub(crate) fn next(&self) -> Command {
        self.next_within(PATIENCE).expect("no command came")
    }

    /// The next command, if one comes in time.
    pub(crate) fn next_within(&self, limit: Duration) -> Option<Command> {
        wait(self.0.bell(), limit, || self.0.has_command(), || self.0.take())
    }

    /// What the sidecar says about a key.
    pub(crate) fn look_up(&self, secret: &str) -> KeyAnswer {
        let digest = KeyDigest::of(secret.as_bytes(), None);
        self.0.tell(Event::KeyLookup(digest)).unwrap();
        loop {
            match self.next() {
                Command::KeyAnswer(of, answer) if of == digest => return answer,
                _ => {}
            }
        }
    }
}

/// The next order to the coordinator; waits for it.
pub(crate) fn next_order(coordinator: &CoordinatorEnd) -> Order {
    let order = wait(coordinator.bell(), PATIENCE, || coordinator.has_word(), || coordinator.take_order());
    order.expect("no order came")
}

/// Waits for what nobody tells.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(LOOK);
    }
}

/// What `take` gives, if it gives something in time, asleep by `bell` meanwhile.
fn wait<T>(
    bell: &Doorbell,
    limit: Duration,
    has_any: impl Fn() -> bool,
    take: impl Fn() -> Option<T>,
) -> Option<T> {
    loop {
        bell.going_to_sleep();
        if !has_any() {
            let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
            if poll(&mut [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)], Some(&limit)).unwrap() == 0 {
                bell.awake();
                return None;
            }
        }
        bell.awake();
        if let Some(taken) = take() {
            return Some(taken);
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// `error.code` and `error.param`, after judging the rest of the envelope.
    pub(crate) fn refusal(&self) -> (String, Value) {
        let body = self.json();
        let error = &body["error"];
        assert_eq!(error["request_id"].as_str(), self.header("x-request-id"), "{body}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let members: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["code", "message", "param", "request_id", "type"]);
        assert!(error["message"].as_str().is_some_and(|text| text.ends_with('.')), "{body}");
        (error["code"].as_str().unwrap().to_owned(), error["param"].clone())
    }
}

/// One request on a connection of its own.
pub(crate) fn send(
    to: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    parse(&String::from_utf8(bytes).unwrap())
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap();
    Answer { status, headers: lines.map(header).collect(), body: body.to_owned() }
}
