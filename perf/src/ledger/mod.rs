//! `ledger`: whether the usage ledger is right after the gateway was killed again and again under load.
//!
//! Three books are kept by three parties: clients (what they were told), the backend (what it ran), and the gateway
//! (its ledger). They are held against each other request by request. It must never take one book's word for another's.

mod books;
mod clickhouse;
mod load;
mod mix;
mod reader;
mod reconcile;
mod report;
mod rig;
mod told;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

pub(crate) use self::report::{Record, write};
use self::{
    clickhouse::ClickHouse,
    load::{Load, Plan},
    mix::Mix,
    reconcile::{Books, Judgement},
    rig::{PRICE, Rig},
    told::Told,
};
use crate::{load::Random, signals, terminal::remark};

/// Part of the kills that are followed by another one while the gateway starts.
const FALSE_STARTS: f64 = 0.25;
/// Longest life of a gateway that is killed while it starts.
const SHORT_LIFE: Duration = Duration::from_millis(400);
/// How long after the last answer the ledger may take to have everything.
const SETTLED: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// Pause between two readings of the whole ledger.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) requests: usize,
    pub(crate) kills: usize,
    pub(crate) connections: usize,
    pub(crate) seed: u64,
    /// The ledger is in a ClickHouse that is away for a while.
    pub(crate) outage: Option<Outage>,
    /// The program `obleth`.
    pub(crate) obleth: PathBuf,
    /// A folder for whatever is started.
    pub(crate) folder: PathBuf,
    /// Processors to run on.
    pub(crate) processors: Vec<usize>,
}

/// A ClickHouse that goes away under an open loop, and comes back.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// The library that is its server.
    pub(crate) library: PathBuf,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Before which request it goes, and before which it is back.
    pub(crate) between: (usize, usize),
}

/// What the ledger is asked to hold out: requests per second.
const OUTAGE_RATE: f64 = 500.0;
/// Seconds of load before an outage, and after it.
const BESIDE_SECS: f64 = 10.0;

impl Outage {
    /// One of so many seconds, and the requests of the whole run.
    pub(crate) fn of(library: PathBuf, secs: f64) -> (usize, Self) {
        let requests = |secs: f64| (secs * OUTAGE_RATE) as usize;
        let between = (requests(BESIDE_SECS), requests(BESIDE_SECS + secs));
        (requests(2.0 * BESIDE_SECS + secs), Self { library, rate: OUTAGE_RATE, between })
    }
}

/// What happens to whom during the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The gateway is killed, and starts again.
    Kill,
    /// The store is killed.
    StoreGoes,
    /// The store is started again.
    StoreReturns,
}

/// Events that have happened, by the run's clock.
#[derive(Debug, Default)]
struct Past {
    kills: Vec<Duration>,
    store_returned: Option<Duration>,
}

/// Puts the load on, kills the gateway, and reconciles.
///
/// # Errors
/// Something does not start or answer; faults of the ledger are in the record.
pub(crate) fn run(asked: &Asked) -> Result<Record> {
    // A try that is repeated has a line of its own.
    let journal = asked.requests * 2;
    let store = asked.outage.as_ref().map(|outage| ClickHouse::start(&outage.library, &asked.folder));
    let mut rig = Rig::start(&asked.obleth, &asked.folder, &asked.processors, store.transpose()?, journal)?;
    let keys = rig.register()?;
    let begin = Instant::now();
    let (told, mut past) = load_and_kill(asked, &mut rig, keys, begin)?;
    let load_secs = begin.elapsed().as_secs_f64();
    let kills = past.kills.len();
    remark(&format!("{} requests in {load_secs:.0} s, {kills} kills; reading the books", told.len()));
    rig.quiet()?;
    let answered = begin.elapsed();
    let mut judgement = settle(asked, &rig, &told, &past.kills)?;
    let settled = begin.elapsed();
    if judgement.is_clean() {
        // What was delivered must not be delivered again by the next one.
        past.kills.push(rig.kill(begin)?);
        rig.restart()?;
        signals::wait(READ_AGAIN)?;
        judgement = settle(asked, &rig, &told, &past.kills)?;
    }
    Ok(Record {
        seed: asked.seed,
        requests: told.len(),
        connections: asked.connections,
        kills_secs: past.kills.iter().map(Duration::as_secs_f64).collect(),
        load_secs,
        settled_secs: (settled - answered).as_secs_f64(),
        returned_secs: past.store_returned.map(|returned| (settled - returned).as_secs_f64()),
        no_room: rig.no_room()?,
        port_taken_secs: rig.port_taken().as_secs_f64(),
        judgement,
    })
}

/// The load on one thread, what happens to the others on this one.
fn load_and_kill(
    asked: &Asked,
    rig: &mut Rig<'_>,
    keys: Vec<String>,
    begin: Instant,
) -> Result<(Vec<Told>, Past)> {
    let sent = AtomicUsize::new(0);
    let plan = Plan {
        target: rig.target,
        mix: Mix::new(asked.seed, rig.target, keys),
        connections: asked.connections,
        requests: asked.requests,
        rate: asked.outage.as_ref().map(|outage| outage.rate),
        begin,
    };
    let load = Load::new(plan, &sent)?;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load.run());
        let mut past = Past::default();
        for (moment, event) in events(asked) {
            while sent.load(Ordering::Relaxed) < moment && !load.is_finished() {
                std::thread::sleep(LOOK);
            }
            if load.is_finished() {
                break;
            }
            happen(event, asked.seed.wrapping_add(moment as u64), rig, (begin, &mut past))?;
            remark(&format!("{:.1} s: {event:?}", begin.elapsed().as_secs_f64()));
        }
        let told = load.join().map_err(|_| anyhow!("the load died"))?;
        Ok((told.with_context(|| format!("(obleth: {})", rig.gateway().process.last_error()))?, past))
    })
}

/// What happens, and before which requests.
fn events(asked: &Asked) -> Vec<(usize, Event)> {
    let mut random = Random::new(asked.seed.rotate_left(23));
    let mut moment = || (random.uniform() * asked.requests as f64) as usize;
    let mut events: Vec<_> = (0..asked.kills).map(|_| (moment(), Event::Kill)).collect();
    if let Some(Outage { between: (goes, returns), .. }) = asked.outage {
        events.extend([(goes, Event::StoreGoes), (returns, Event::StoreReturns)]);
    }
    events.sort_unstable();
    events
}

fn happen(event: Event, seed: u64, rig: &mut Rig<'_>, (begin, past): (Instant, &mut Past)) -> Result<()> {
    signals::check()?;
    match (event, &mut rig.store) {
        (Event::StoreGoes, Some(store)) => store.kill(),
        (Event::StoreReturns, Some(store)) => {
            store.up()?;
            past.store_returned = Some(begin.elapsed());
        }
        (Event::StoreGoes | Event::StoreReturns, None) => {}
        (Event::Kill, _) => {
            let mut random = Random::new(seed);
            past.kills.push(rig.kill(begin)?);
            if random.uniform() <= FALSE_STARTS {
                past.kills.push(rig.false_start(SHORT_LIFE.mul_f64(random.uniform()), begin)?);
            }
            rig.restart()?;
        }
    }
    Ok(())
}

/// Reads and judges until nothing is missing, or it has been too long.
fn settle(asked: &Asked, rig: &Rig<'_>, told: &[Told], kills: &[Duration]) -> Result<Judgement> {
    let seen = books::journal(rig.backend(), asked.seed, told.len())?;
    let end = Instant::now() + SETTLED;
    loop {
        let rows = books::rows(rig.gateway(), asked.seed)?;
        let judgement = Books { told, seen: &seen, rows: &rows, kills, price: PRICE }.judge();
        if judgement.is_clean() || Instant::now() >= end {
            return Ok(judgement);
        }
        signals::wait(READ_AGAIN)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_over_the_run_by_their_seed() {
        let asked = |seed| Asked {
            requests: 1000,
            kills: 50,
            connections: 1,
            seed,
            outage: Some(Outage { library: PathBuf::new(), rate: 1.0, between: (300, 600) }),
            obleth: PathBuf::new(),
            folder: PathBuf::new(),
            processors: Vec::new(),
        };
        let (one, other) = (events(&asked(1)), events(&asked(2)));
        assert!(one.is_sorted() && one.iter().all(|(moment, _)| *moment <= 1000));
        let kills = one.iter().filter(|(_, event)| *event == Event::Kill);
        assert_eq!((kills.count(), one.len()), (50, 52));
        assert!(one.first().unwrap().0 < 200 && one.last().unwrap().0 > 800);
        assert!(one.contains(&(300, Event::StoreGoes)) && one.contains(&(600, Event::StoreReturns)));
        assert_eq!(one, events(&asked(1)));
        assert_ne!(one, other);
    }
}
