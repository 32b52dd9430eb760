//! The gateway dies under load, at any moment, also while it starts; its ledger has every request exactly once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use obleth_upstream::Options;
use rustix::process::Signal;

use super::{
    cancels::{Random, seed},
    http::{self, Connection, Request, Response},
    ledger_books::{End, named, until_they_agree},
    process::{Driver, Gateway, Setup, until},
    world::{ENDPOINTS, World, body_of},
};

const CLIENTS: usize = 12;
/// Most requests that are answered between two kills.
const APART: u64 = 150;
/// Longest life of a gateway that is killed while it starts.
const SHORT_LIFE_MS: u64 = 300;

/// What clients share.
struct Crowd {
    secret: String,
    /// Where the gateway listens now.
    target: Mutex<SocketAddr>,
    next: AtomicUsize,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    /// Asks again and again until it is over, and gives what came of each request.
    fn client(&self) -> BTreeMap<String, End> {
        let mut told = BTreeMap::new();
        let mut connection = None;
        while !self.over.load(Ordering::Relaxed) {
            let target = *self.target.lock().unwrap();
            let Some(mut open) = connection.take().or_else(|| Connection::try_open(target).ok()) else {
                thread::yield_now();
                continue;
            };
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let end = self.ask(number, &mut open);
            if end != End::Broken {
                self.answered.fetch_add(1, Ordering::Relaxed);
                connection = Some(open);
            }
            told.insert(format!("r-{number}"), end);
        }
        told
    }

    fn ask(&self, number: usize, connection: &mut Connection) -> End {
        let (stream, unknown) = (r#","stream":true"#, "nobody");
        let chat = |model, more| Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], model, more));
        let request = match number % 10 {
            0 => chat(unknown, ""),
            1 => Request::post(ENDPOINTS[2], body_of(ENDPOINTS[2], super::world::MODEL, "")),
            2..=4 => chat(super::world::MODEL, ""),
            _ => chat(super::world::MODEL, stream),
        };
        let request = named(request.key(&self.secret), &format!("r-{number}"));
        if !connection.try_send(request.bytes()) {
            return End::Broken;
        }
        if number % 10 == 9 {
            // This one leaves somewhere in its answer.
            connection.read_for(Duration::from_millis(number as u64 % 7));
            return End::Broken;
        }
        connection.try_response().map_or(End::Broken, end_of)
    }
}

fn end_of(answer: Response) -> End {
    let streamed = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let done = answer.body.ends_with(b"data: [DONE]\n\n");
    let whole = if streamed { done } else { answer.end == http::End::Complete };
    match answer.status {
        _ if !whole => End::Broken,
        200 => End::Whole,
        status => End::Refused(status, answer.code()),
    }
}

/// Sends everybody home, also when a test fails.
struct Evening<'a>(&'a AtomicBool);

impl Drop for Evening<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kill(gateway: &mut Gateway) {
    gateway.signal(Signal::KILL);
    gateway.wait();
}

/// Kills the gateway so often under load, reconciles, kills it once more, and reconciles again.
fn killed(driver: Driver, times: u64) {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::new().driver(driver).data_dir(data.path());
    let options =
        Options { journal: 1_000_000, latency_ms: 2, tokens_per_second: 2000.0, ..Options::default() };
    let mut world = World::with(setup.clone(), options);
    let crowd = Crowd {
        secret: world.secret.clone(),
        target: Mutex::new(world.gateway.data),
        next: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let mut random = Random::new(seed());
    let told = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| crowd.client())).collect();
        let evening = Evening(&crowd.over);
        for time in 0..times {
            let wanted = crowd.answered.load(Ordering::Relaxed) + random.below(0..APART) as usize;
            until("requests are answered", || crowd.answered.load(Ordering::Relaxed) >= wanted);
            kill(&mut world.gateway);
            if time % 4 == 3 {
                setup.clone().killed_after(Duration::from_millis(random.below(0..SHORT_LIFE_MS)));
            }
            world.gateway = setup.clone().start();
            *crowd.target.lock().unwrap() = world.gateway.data;
        }
        let wanted = crowd.answered.load(Ordering::Relaxed) + 50;
        until("requests are answered again", || crowd.answered.load(Ordering::Relaxed) >= wanted);
        drop(evening);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<BTreeMap<_, _>>()
    });
    world.until_idle();
    let rows = until_they_agree(&world.gateway, world.sim.addr, &told, true);
    assert!(rows.len() as u64 > times * 10, "{} rows", rows.len());
    assert!(rows.iter().any(|row| row["outcome"] == "ok"));
    assert_eq!(world.gateway.metric("obleth_usage_lost_total"), 0.0);
    kill(&mut world.gateway);
    world.gateway = setup.start();
    assert_eq!(world.ask(&named(world.chat(""), "last")).status, 200);
    let mut told = told;
    told.insert("last".to_owned(), End::Whole);
    let again = until_they_agree(&world.gateway, world.sim.addr, &told, true);
    assert_eq!(again.len(), rows.len() + 1, "what was delivered is not delivered again");
}

#[test]
fn a_gateway_that_is_killed_loses_no_request_and_counts_none_twice_on_io_uring() {
    killed(Driver::Uring, 5);
}

#[test]
fn a_gateway_that_is_killed_loses_no_request_and_counts_none_twice_on_epoll() {
    killed(Driver::Epoll, 5);
}

#[test]
#[ignore = "several minutes"]
fn a_gateway_that_is_killed_a_hundred_times_loses_no_request_and_counts_none_twice() {
    killed(Driver::Uring, 100);
}

#[test]
fn what_was_answered_before_a_kill_is_in_the_ledger_to_the_token_and_what_was_cut_is_estimated() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::new().data_dir(data.path());
    let mut world = World::with(setup.clone(), Options { journal: 100, ..Options::default() });
    assert_eq!(world.ask(&named(world.chat(r#","stream":true"#), "whole")).status, 200);
    let mut cut = world.connect();
    let stalls = world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens");
    cut.send(named(stalls, "cut").bytes());
    cut.read_until("\"content\":");
    kill(&mut world.gateway);
    until("the backend has nothing to do", || world.sim().active == 0);
    world.gateway = setup.start();
    let told = [("whole".to_owned(), End::Whole), ("cut".to_owned(), End::Broken)].into();
    let rows = until_they_agree(&world.gateway, world.sim.addr, &told, true);
    let of = |id| rows.iter().find(|row| row["request_id"] == id).unwrap();
    assert_eq!((&of("whole")["outcome"], &of("whole")["status"]), (&"ok".into(), &200.into()));
    let cut = of("cut");
    assert_eq!(
        (&cut["outcome"], &cut["usage_source"]),
        (&"gateway_lost".into(), &"estimated".into()),
        "{cut}"
    );
    assert_eq!(
        (&cut["tenant_id"], &cut["model_id"]),
        (&world.tenant_id.as_str().into(), &world.model_id.as_str().into())
    );
    assert!(cut["input_tokens"].as_u64().unwrap() > 0, "{cut}");
}
