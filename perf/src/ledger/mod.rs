//! `ledger`: whether the usage ledger is right after the gateway was killed again and again under load.
//!
//! Three books are kept by three parties: clients (what they were told), the backend (what it ran), and the gateway
//! (its ledger). They are held against each other request by request. It must never take one book's word for another's.

mod books;
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
    /// The program `obleth`.
    pub(crate) obleth: PathBuf,
    /// A folder for whatever is started.
    pub(crate) folder: PathBuf,
    /// Processors to run on.
    pub(crate) processors: Vec<usize>,
}

/// Puts the load on, kills the gateway, and reconciles.
///
/// # Errors
/// Something does not start or answer; faults of the ledger are in the record.
pub(crate) fn run(asked: &Asked) -> Result<Record> {
    // A try that is repeated has a line of its own.
    let journal = asked.requests * 2;
    let mut rig = Rig::start(&asked.obleth, &asked.folder, &asked.processors, &[], journal)?;
    let keys = rig.register()?;
    let begin = Instant::now();
    let (told, mut kills) = load_and_kill(asked, &mut rig, keys, begin)?;
    let load_secs = begin.elapsed().as_secs_f64();
    remark(&format!("{} requests in {load_secs:.0} s, {} kills; reading the books", told.len(), kills.len()));
    rig.quiet()?;
    let answered = Instant::now();
    let mut judgement = settle(asked, &rig, &told, &kills)?;
    let settled_secs = answered.elapsed().as_secs_f64();
    if judgement.is_clean() {
        // What was delivered must not be delivered again by the next one.
        kills.push(rig.kill(begin)?);
        rig.restart()?;
        signals::wait(READ_AGAIN)?;
        judgement = settle(asked, &rig, &told, &kills)?;
    }
    Ok(Record {
        seed: asked.seed,
        requests: told.len(),
        connections: asked.connections,
        kills_secs: kills.iter().map(Duration::as_secs_f64).collect(),
        load_secs,
        settled_secs,
        no_room: rig.no_room()?,
        port_taken_secs: rig.port_taken().as_secs_f64(),
        judgement,
    })
}

/// The load on one thread, the kills on this one.
fn load_and_kill(
    asked: &Asked,
    rig: &mut Rig<'_>,
    keys: Vec<String>,
    begin: Instant,
) -> Result<(Vec<Told>, Vec<Duration>)> {
    let sent = AtomicUsize::new(0);
    let plan = Plan {
        target: rig.target,
        mix: Mix::new(asked.seed, rig.target, keys),
        connections: asked.connections,
        requests: asked.requests,
        begin,
    };
    let load = Load::new(plan, &sent)?;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load.run());
        let mut kills = Vec::new();
        for moment in moments(asked) {
            while sent.load(Ordering::Relaxed) < moment && !load.is_finished() {
                std::thread::sleep(LOOK);
            }
            if load.is_finished() {
                break;
            }
            kill(asked.seed.wrapping_add(moment as u64), rig, begin, &mut kills)?;
        }
        let told = load.join().map_err(|_| anyhow!("the load died"))?;
        Ok((told.with_context(|| format!("(obleth: {})", rig.gateway().process.last_error()))?, kills))
    })
}

/// Before which requests the gateway is killed.
fn moments(asked: &Asked) -> Vec<usize> {
    let mut random = Random::new(asked.seed.rotate_left(23));
    let mut moments: Vec<usize> =
        (0..asked.kills).map(|_| (random.uniform() * asked.requests as f64) as usize).collect();
    moments.sort_unstable();
    moments
}

/// One kill, now and then a second one while the gateway starts again.
fn kill(seed: u64, rig: &mut Rig<'_>, begin: Instant, kills: &mut Vec<Duration>) -> Result<()> {
    let mut random = Random::new(seed);
    signals::check()?;
    kills.push(rig.kill(begin)?);
    if random.uniform() <= FALSE_STARTS {
        kills.push(rig.false_start(SHORT_LIFE.mul_f64(random.uniform()), begin)?);
    }
    rig.restart()?;
    remark(&format!("{:.1} s: killed {} times", begin.elapsed().as_secs_f64(), kills.len()));
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
            obleth: PathBuf::new(),
            folder: PathBuf::new(),
            processors: Vec::new(),
        };
        let (one, other) = (moments(&asked(1)), moments(&asked(2)));
        assert!(one.is_sorted() && one.iter().all(|moment| *moment <= 1000) && one.len() == 50);
        assert!(one.first() < Some(&200) && one.last() > Some(&800));
        assert_eq!(one, moments(&asked(1)));
        assert_ne!(one, other);
    }
}
