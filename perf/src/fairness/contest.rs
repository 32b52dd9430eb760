//! Rows 11 and 14: tenants that all want more than they get, and how far their shares are off in each window.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::{
    Chapter,
    picture::{Picture, part_of},
    placed,
    rig::{Ground, Rig},
    scenario::{Repeat, Setting, Shares},
    shares::{Windows, worst},
};
use crate::{
    finding::{Asked, Finding, Sense, Unit},
    signals,
    statistics::{median, quantile},
    terminal::remark,
};

/// Load behind the last window, so that its last tokens are not the run's.
const TAIL: Duration = Duration::from_millis(50);
/// Windows of a picture per window of a figure, at least.
const FINER: u32 = 4;

/// Part of its cap that a tenant at it must use, and should, in percent: between two of its requests it waits until a slot
/// falls free when it is its group's turn, a part of a service time.
const CAP_USED: (f64, f64) = (90.0, 95.0);

/// One seed.
#[derive(Clone, Debug, Serialize)]
struct Contest {
    seed: u64,
    shards: usize,
    /// Tokens of each tenant in each window.
    tokens: Vec<Vec<u64>>,
    /// Of the worst tenant in each window.
    errors: Vec<f64>,
    /// Of the worst tenant over all windows together.
    error_of_all: f64,
    /// What tenants at their caps took of what these let them have.
    #[serde(skip_serializing_if = "Option::is_none")]
    caps_used: Option<f64>,
    /// Requests of the weakest tenant in a window, on average.
    n: f64,
    /// Part of the slots in use.
    used: f64,
    /// Part of the processors in use.
    busy: f64,
    /// Most requests open at the backend at once.
    most_open: u64,
}

/// Row 11, for one setting.
pub(super) fn shares(ground: Ground<'_>, shares: &Shares, repeat: Repeat) -> Result<Chapter> {
    let mut chapter = Chapter::new(&shares.name);
    let mut contests = Vec::new();
    for seed in 1..=repeat.seeds {
        let (contest, picture) = contest(ground, &shares.setting, repeat, Run { seed, skewed: false })?;
        remark(&format!("{}: seed {seed}, worst {:.2} %", shares.name, contest.error_of_all * 100.0));
        chapter.opened(contest.most_open, shares.setting.slots);
        chapter.pictures.extend((seed == 1).then_some(Picture { title: shares.name.clone(), ..picture }));
        contests.push(contest);
    }
    let errors: Vec<f64> = contests.iter().flat_map(|one| &one.errors).map(|error| error * 100.0).collect();
    let n = contests.iter().map(|one| one.n).sum::<f64>() / contests.len() as f64;
    let from = format!("{} windows of {} s, {}, n = {n:.0}", errors.len(), repeat.secs, seeds(repeat.seeds));
    let what = |which: &str| format!("share error of the worst tenant, {}, {which}", shares.name);
    let asked = asked(n);
    let finding = |which: &str, asked, value| {
        Finding::new(Some(11), what(which), Unit::Percent, asked, value).from(from.clone())
    };
    let busy = median(&contests.iter().map(|one| one.busy).collect::<Vec<_>>()).unwrap_or_default();
    let used = median(&contests.iter().map(|one| one.used).collect::<Vec<_>>()).unwrap_or_default();
    let circumstances = format!("{:.1} % of the slots in use, {}", used * 100.0, super::busy_text(busy));
    let caps = contests.iter().filter_map(|one| one.caps_used).min_by(f64::total_cmp);
    let of_cap = format!("part of its cap that a tenant at it uses, {}, least of the seeds", shares.name);
    chapter.findings = vec![
        finding("median", asked.median, median(&errors)).remark(circumstances),
        finding("p95", asked.p95, quantile(&errors, 0.95)),
        finding("largest", asked.largest, quantile(&errors, 1.0)),
    ];
    chapter.findings.extend(caps.map(|used| {
        let asked = Asked::at_least(CAP_USED.0, CAP_USED.1);
        Finding::new(Some(11), of_cap, Unit::Percent, asked, Some(used * 100.0)).from(from.clone())
    }));
    chapter.record = json!(contests);
    Ok(chapter)
}

/// What row 11 asks, for so many requests of the weakest tenant per window.
struct AskedOfShares {
    median: Asked,
    p95: Asked,
    largest: Asked,
}

fn asked(n: f64) -> AskedOfShares {
    let at_most = |must, goal| Asked { sense: Sense::AtMost, must, goal };
    AskedOfShares {
        median: at_most(None, Some(f64::max(0.5, 50.0 / n))),
        // 3 % are asked at n ≥ 90, and the error of a window goes with 1/n.
        p95: at_most(Some(3.0 * f64::max(1.0, 90.0 / n)), Some(f64::max(1.0, 200.0 / n))),
        largest: at_most(None, (n >= 300.0).then_some(1.0)),
    }
}

/// Row 14: two shards, with all connections of the first tenant on one and all others on the other, beside one shard.
pub(super) fn skew(ground: Ground<'_>, shares: &Shares, repeat: Repeat) -> Result<Chapter> {
    let mut chapter = Chapter::new(&shares.name);
    let (mut added, mut contests) = (Vec::new(), Vec::new());
    for seed in 1..=repeat.seeds {
        let mut medians = Vec::new();
        for shards in [1, 2] {
            let setting = Setting { shards, ..shares.setting.clone() };
            let (contest, picture) = contest(ground, &setting, repeat, Run { seed, skewed: shards == 2 })?;
            remark(&format!(
                "{}: seed {seed}, {}, worst {:.2} %",
                shares.name,
                shards_text(shards),
                contest.error_of_all * 100.0
            ));
            chapter.opened(contest.most_open, setting.slots);
            let title = format!("{}, {}", shares.name, shards_text(shards));
            chapter.pictures.extend((seed == 1).then_some(Picture { title, ..picture }));
            medians.extend(median(&contest.errors).map(|error| error * 100.0));
            contests.push(contest);
        }
        if let [one, two] = medians.as_slice() {
            added.push(two - one);
        }
    }
    let n = contests.iter().map(|one| one.n).sum::<f64>() / contests.len().max(1) as f64;
    let of = |shards: usize| {
        let errors = contests.iter().filter(|one| one.shards == shards).flat_map(|one| &one.errors);
        median(&errors.map(|error| error * 100.0).collect::<Vec<_>>()).unwrap_or_default()
    };
    let finding = Finding::median_of(
        Some(14),
        "median share error of the worst tenant, 2 shards with skewed connections − 1 shard",
        Unit::Points,
        Asked::at_most(2.0, 0.5),
        &added,
    );
    chapter.findings = vec![
        finding
            .from(format!(
                "{} windows of {} s each, {}, n = {n:.0}",
                repeat.windows,
                repeat.secs,
                seeds(repeat.seeds)
            ))
            .remark(format!("{:.2} % with 1 shard, {:.2} % with 2", of(1), of(2))),
    ];
    chapter.record = json!(contests);
    Ok(chapter)
}

fn shards_text(count: usize) -> &'static str {
    if count == 1 { "1 shard" } else { "2 shards" }
}

pub(super) fn seeds(count: u64) -> String {
    if count == 1 { "1 seed".to_owned() } else { format!("{count} seeds") }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    seed: u64,
    /// All connections of the first tenant on one shard, all others on another.
    skewed: bool,
}

/// Runs one seed on fresh processes.
fn contest(ground: Ground<'_>, setting: &Setting, repeat: Repeat, run: Run) -> Result<(Contest, Picture)> {
    let rig = Rig::start(ground, setting)?;
    let mut demands = rig.demands()?;
    if run.skewed {
        let first = demands.first().map_or(0, |demand| demand.connections);
        let rest = demands.iter().skip(1).map(|demand| demand.connections).sum();
        let [first, rest] = placed::connections(rig.pid(), rig.target(), [first, rest])?;
        let mut ready = first.into_iter().chain(rest);
        for demand in &mut demands {
            demand.ready = ready.by_ref().take(demand.connections).collect();
        }
    }
    let plan = rig.plan(demands, repeat.length() + TAIL, run.seed);
    let (seen, between) = rig.run(plan, |begin| {
        signals::wait((begin + repeat.warmup()).saturating_duration_since(Instant::now()))?;
        let from = rig.look()?;
        signals::wait((begin + repeat.length()).saturating_duration_since(Instant::now()))?;
        Ok(rig.between(from, rig.look()?))
    })?;
    let (first, length) = (repeat.warmup(), repeat.window());
    let windows = Windows { first, length, step: length, count: repeat.windows };
    let tokens: Vec<_> = seen.iter().map(|one| &one.tokens).collect();
    let entitled = setting.entitled();
    let counts = windows.counts(&tokens);
    let all = Windows { length: length.mul_f64(repeat.windows as f64), count: 1, ..windows };
    let of_all = all.counts(&tokens);
    let of_all = of_all.first().context("a run without a window")?;
    let weakest = entitled.iter().enumerate().min_by(|(_, left), (_, right)| left.total_cmp(right));
    let weakest = weakest.and_then(|(at, _)| seen.get(at)).context("a pool without tenants")?;
    let contest = Contest {
        seed: run.seed,
        shards: setting.shards,
        errors: counts.iter().filter_map(|counts| worst(counts, &setting.entitled_beside(counts))).collect(),
        error_of_all: worst(of_all, &setting.entitled_beside(of_all)).unwrap_or(1.0),
        caps_used: setting.caps_used(of_all),
        n: weakest.finished.within(first, all.length) as f64 / repeat.windows as f64,
        used: between.used,
        busy: between.busy,
        most_open: rig.count("max_open")?,
        tokens: counts,
    };
    let finer = Windows {
        length: length / FINER,
        step: length / FINER,
        count: repeat.windows * FINER as usize,
        ..windows
    };
    let shares = part_of(&finer.counts(&tokens));
    let picture = Picture {
        title: String::new(),
        step: finer.step,
        shares,
        entitled: vec![(0, entitled)],
        marks: Vec::new(),
    };
    Ok((contest, picture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_asked_where_a_window_holds_fewer_requests() {
        let of = |n: f64| {
            let AskedOfShares { median, p95, largest } = asked(n);
            (median.goal, p95.must, p95.goal, largest.goal)
        };
        assert_eq!(of(100.0), (Some(0.5), Some(3.0), Some(2.0), None));
        assert_eq!(of(45.0), (Some(50.0 / 45.0), Some(6.0), Some(200.0 / 45.0), None));
        assert_eq!(of(400.0), (Some(0.5), Some(3.0), Some(1.0), Some(1.0)));
    }
}
