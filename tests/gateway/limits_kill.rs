//! The gateway dies under load; what its budgets have used is what the ledger says, before anybody is let in again.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use obleth_policy::limit::{Measure, Unit};
use obleth_upstream::Options;
use rustix::process::Signal;

use super::{
    cancels::{Random, seed},
    http::{Connection, Request},
    parties::{Of, Party, counted},
    process::{Driver, Gateway, Setup, until},
    world::World,
};

const CLIENTS: usize = 12;
/// Most requests that are answered between two kills.
const APART: u64 = 150;
/// The most that one request reserves: each byte of its body a token, and its answer; or what they cost.
const MOST_TOKENS: u64 = 200 + MOST_ANSWER;
const MOST_ANSWER: u64 = 60;

/// What clients share.
struct Crowd<'a> {
    party: &'a Party,
    /// Where the gateway listens now; `None` while nobody may ask it.
    target: Mutex<Option<SocketAddr>>,
    busy: AtomicUsize,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Crowd<'_> {
    fn client(&self, number: u64) {
        let mut random = Random::new(number);
        while !self.over.load(Ordering::Relaxed) {
            self.busy.fetch_add(1, Ordering::SeqCst);
            let target = *self.target.lock().unwrap();
            if let Some(mut open) = target.and_then(|target| Connection::try_open(target).ok()) {
                while self.ask(&mut open, &mut random) && !self.over.load(Ordering::Relaxed) {}
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            thread::yield_now();
        }
    }

    /// One request. False if the connection is of no use any more.
    fn ask(&self, connection: &mut Connection, random: &mut Random) -> bool {
        let length = random.below(1..MOST_ANSWER);
        let stream = if random.below(0..3) > 0 { r#","stream":true"# } else { "" };
        let request: Request =
            self.party.chat(&format!(r#","max_tokens":{MOST_ANSWER},"sim_tokens":{length}{stream}"#));
        if !connection.try_send(request.bytes()) {
            return false;
        }
        if random.below(0..10) == 0 {
            // This one leaves somewhere in its answer.
            connection.read_for(Duration::from_millis(random.below(0..7)));
            return false;
        }
        let whole = connection.try_response().is_some();
        self.answered.fetch_add(usize::from(whole), Ordering::Relaxed);
        whole
    }
}

/// Sends everybody home, also when a test fails.
struct Evening<'a>(&'a AtomicBool);

impl Drop for Evening<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The books of a gateway that was just started and that nobody asks anything.
#[track_caller]
fn assert_books(party: &Party, gateway: &Gateway) {
    // What the ledger has can only grow, so it is read first.
    let known = party.ledger(gateway);
    let begun = party.budgets(gateway);
    assert_eq!(begun.len(), 18);
    for (of, measure, stand) in &begun {
        let known = counted(*measure, known);
        assert!(stand.spent >= known, "{of:?} {measure:?}: {stand:?} below the ledger's {known}");
    }
    until("limits and ledger agree", || {
        let (budgets, ledger) = (party.budgets(gateway), party.ledger(gateway));
        budgets
            .iter()
            .all(|(_, measure, stand)| stand.reserved == 0 && stand.spent == counted(*measure, ledger))
    });
    let ledger = party.ledger(gateway);
    for (of, measure, stand) in &begun {
        let price = if measure.unit() == Unit::Tokens { 1 } else { 2 };
        let most = counted(*measure, ledger) + CLIENTS as u64 * MOST_TOKENS * price;
        assert!(stand.spent + stand.reserved <= most, "{of:?} {measure:?}: {stand:?} above {most}");
    }
}

fn killed(driver: Driver, times: u64) {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::new().driver(driver).data_dir(data.path());
    let options = Options { latency_ms: 2, tokens_per_second: 2000.0, ..Options::default() };
    let mut world = World::with(setup.clone(), options);
    world.priced();
    let party = world.party();
    world.ample(&party);
    world.limit(&party, Of::Tenant, Measure::RequestsPerMinute, Some(1 << 40));
    let crowd = Crowd {
        party: &party,
        target: Mutex::new(Some(world.gateway.data)),
        busy: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let mut random = Random::new(seed());
    thread::scope(|scope| {
        let crowd = &crowd;
        (0..CLIENTS as u64).for_each(|number| drop(scope.spawn(move || crowd.client(number))));
        let _evening = Evening(&crowd.over);
        for _ in 0..times {
            let wanted = crowd.answered.load(Ordering::Relaxed) + 1 + random.below(0..APART) as usize;
            until("requests are answered", || crowd.answered.load(Ordering::Relaxed) >= wanted);
            *crowd.target.lock().unwrap() = None;
            world.gateway.signal(Signal::KILL);
            world.gateway.wait();
            world.gateway = setup.clone().start();
            assert_books(&party, &world.gateway);
            *crowd.target.lock().unwrap() = Some(world.gateway.data);
        }
        let wanted = crowd.answered.load(Ordering::Relaxed) + 50;
        until("requests are answered again", || crowd.answered.load(Ordering::Relaxed) >= wanted);
    });
    world.until_idle();
    assert_books(&party, &world.gateway);
    assert_eq!(world.gateway.metric("obleth_budget_repairs_total"), 0.0, "nothing had to be put right");
}

#[test]
fn after_a_kill_no_budget_has_less_than_its_ledger_or_more_than_was_in_flight_on_io_uring() {
    killed(Driver::Uring, 3);
}

#[test]
fn after_a_kill_no_budget_has_less_than_its_ledger_or_more_than_was_in_flight_on_epoll() {
    killed(Driver::Epoll, 3);
}

#[test]
#[ignore = "several minutes"]
fn after_twenty_kills_no_budget_has_less_than_its_ledger_or_more_than_was_in_flight() {
    killed(Driver::Uring, 20);
}

/// A budget that was used up before a kill is used up after it, for the first request that is let in.
#[test]
fn a_budget_that_is_used_up_stays_so_when_the_gateway_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::new().data_dir(data.path());
    let mut world = World::with(setup.clone(), Options::default());
    world.priced();
    world.taught();
    let room = 5;
    let measures: Vec<_> = Measure::ALL.into_iter().filter(|measure| measure.is_budget()).collect();
    let parties: Vec<Party> =
        measures.iter().map(|m| world.limited(Of::Group, *m, room * super::parties::cost(*m))).collect();
    for (party, measure) in parties.iter().zip(&measures) {
        let answers = world.ask_times(&party.request(), room as usize - 1);
        assert_eq!(super::parties::passed(&answers, *measure), room as usize - 1);
    }
    world.gateway.signal(Signal::KILL);
    world.gateway.wait();
    world.gateway = setup.start();
    world.taught();
    for (party, measure) in parties.iter().zip(&measures) {
        let answers = world.ask_times(&party.request(), 4);
        assert_eq!(super::parties::passed(&answers, *measure), 1, "{measure:?}");
    }
}
