//! Row 16: a tenant joins, gets another weight, leaves. How long until what is delivered follows?
//!
//! A window that is short enough to see it holds few requests. So the change is repeated, and the windows that begin
//! equally long after it are added up; what single rounds say stands beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Chapter,
    picture::{Picture, part_of},
    rig::{Ground, Rig},
    scenario::{Change, Setting},
    seen::Seen,
    shares::{Series, Windows, settled, worst},
};
use crate::{
    finding::{Asked, Finding, Unit},
    signals,
    statistics::{median, quantile},
    terminal::remark,
};

/// Windows begin this often, as a part of their length.
const STEPS: u32 = 4;
/// The least window, by row 16.
const LEAST: Duration = Duration::from_millis(250);
/// Load behind the last change.
const TAIL: Duration = Duration::from_millis(100);
/// Width of a window of the picture.
const PICTURE: Duration = Duration::from_millis(500);

/// A kind of change, with who is entitled to what after it.
struct Kind {
    name: &'static str,
    entitled: Vec<f64>,
    /// When it happened, in each round.
    moments: Vec<Duration>,
}

pub(super) fn run(ground: Ground<'_>, change: &Change, rounds: usize) -> Result<Chapter> {
    let mut chapter = Chapter::new("change");
    let setting = &change.setting;
    let rig = Rig::start(ground, setting)?;
    let script = Script::new(change, rounds);
    let plan = rig.plan(script.demands(&rig)?, script.end() + TAIL, 1);
    let (seen, (reweighted, between)) = rig.run(plan, |begin| script.play(&rig, begin))?;
    chapter.opened(rig.count("max_open")?, setting.slots);
    let tokens = merged(&seen, setting.tenants.len(), |seen| &seen.tokens);
    let finished = merged(&seen, setting.tenants.len(), |seen| &seen.finished);
    let service = Duration::from_secs_f64(setting.lengths.mean() / setting.tokens_per_second);
    let window = LEAST.max(service * 2);
    let mut records = Vec::new();
    for kind in script.kinds(reweighted) {
        let windows = Windows {
            first: Duration::ZERO,
            length: window,
            step: window / STEPS,
            count: windows_within(script.gap, window),
        };
        let every = Every { kind: &kind, windows, tokens: &tokens };
        let together = every.settles(None, change.tolerance);
        let alone: Vec<f64> = (0..rounds)
            .map(|round| every.settles(Some(round), 2.0 * change.tolerance).unwrap_or(script.gap))
            .map(|time| time.as_secs_f64() * 1e3)
            .collect();
        let from = format!(
            "{rounds} rounds added up, windows of {} ms, n = {:.0}",
            window.as_millis(),
            every.requests_of_weakest(&finished)
        );
        records.push(
            json!({"kind": kind.name, "together_ms": together.map(|t| t.as_millis()), "single_ms": alone}),
        );
        chapter.findings.push(finding(&kind, (together, script.gap), service, change).from(from).remark(
            format!(
                "single rounds to within {:.0} %: median {:.0} ms, most {:.0} ms; {}",
                change.tolerance * 200.0,
                median(&alone).unwrap_or_default(),
                quantile(&alone, 1.0).unwrap_or_default(),
                super::busy_text(between.busy),
            ),
        ));
    }
    remark(&format!("change: {rounds} rounds"));
    chapter.record = json!(records);
    chapter.pictures.push(script.picture(&tokens));
    Ok(chapter)
}

fn finding(
    kind: &Kind,
    settles: (Option<Duration>, Duration),
    service: Duration,
    change: &Change,
) -> Finding {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let must = ms(Duration::from_secs(2).max(service * 4));
    let asked = Asked::at_most(must, ms(LEAST.max(service * 2)));
    // What did not settle before the next change took longer than that.
    let value = ms(settles.0.unwrap_or(settles.1));
    let within = change.tolerance * 100.0;
    let what = format!("from a tenant's {} until shares stay within {within:.0} %", kind.name);
    Finding::new(Some(16), what, Unit::Milliseconds, asked, Some(value))
}

/// Windows of this length that begin and end within `gap`.
fn windows_within(gap: Duration, window: Duration) -> usize {
    let steps = gap.saturating_sub(window).as_nanos() / (window / STEPS).as_nanos().max(1);
    usize::try_from(steps).unwrap_or_default() + 1
}

/// Every window after every change of one kind.
struct Every<'a> {
    kind: &'a Kind,
    windows: Windows,
    tokens: &'a [Series],
}

impl Every<'_> {
    /// How long after the change all windows begin to be within `tolerance`; of one round, or of all added up.
    fn settles(&self, round: Option<usize>, tolerance: f64) -> Option<Duration> {
        let moments = self.kind.moments.iter().enumerate();
        let moments = moments.filter(|(at, _)| round.is_none_or(|round| round == *at));
        let counts = added(&self.windows, moments.map(|(_, moment)| *moment), self.tokens);
        let errors: Vec<f64> =
            counts.iter().map(|counts| worst(counts, &self.kind.entitled).unwrap_or(1.0)).collect();
        settled(&errors, tolerance).map(|at| self.windows.step * u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// Requests of the weakest tenant in a window of all rounds together.
    fn requests_of_weakest(&self, finished: &[Series]) -> f64 {
        let counts = added(&self.windows, self.kind.moments.iter().copied(), finished);
        let entitled = self.kind.entitled.iter().enumerate().filter(|(_, entitled)| **entitled > 0.0);
        let weakest = entitled.min_by(|(_, left), (_, right)| left.total_cmp(right)).map_or(0, |(at, _)| at);
        let requests: u64 = counts.iter().filter_map(|counts| counts.get(weakest)).sum();
        requests as f64 / counts.len().max(1) as f64
    }
}

/// What everybody got in each of the windows, counted from each of the moments and added up.
fn added(windows: &Windows, moments: impl Iterator<Item = Duration>, series: &[Series]) -> Vec<Vec<u64>> {
    let series: Vec<&Series> = series.iter().collect();
    let mut sums = vec![vec![0; series.len()]; windows.count];
    for moment in moments {
        let counts = Windows { first: moment + windows.first, ..*windows }.counts(&series);
        for (sum, count) in sums.iter_mut().flatten().zip(counts.into_iter().flatten()) {
            *sum += count;
        }
    }
    sums
}

/// One series per tenant. The last tenant comes once per round, each time as a demand of its own.
fn merged(seen: &[Seen], tenants: usize, of: fn(&Seen) -> &Series) -> Vec<Series> {
    let mut series: Vec<Series> = seen.iter().take(tenants).map(|seen| of(seen).clone()).collect();
    if let Some(last) = series.last_mut() {
        seen.iter().skip(tenants).for_each(|seen| last.merge(of(seen)));
    }
    series
}

/// When what happens.
struct Script<'a> {
    change: &'a Change,
    rounds: usize,
    /// Between two changes.
    gap: Duration,
    warmup: Duration,
}

impl<'a> Script<'a> {
    fn new(change: &'a Change, rounds: usize) -> Self {
        let secs = Duration::from_secs_f64;
        Self { change, rounds, gap: secs(change.secs), warmup: secs(change.warmup_secs) }
    }

    /// When the `step`-th change of a round happens: join, other weight, leave.
    fn moment(&self, round: usize, step: u32) -> Duration {
        self.warmup + self.gap * (3 * u32::try_from(round).unwrap_or(u32::MAX) + step)
    }

    fn end(&self) -> Duration {
        self.moment(self.rounds, 0)
    }

    fn joiner(&self) -> usize {
        self.change.setting.tenants.len().saturating_sub(1)
    }

    /// Everybody but the last tenant for all of the time, and the last one once per round.
    fn demands(&self, rig: &Rig) -> Result<Vec<super::generator::Demand>> {
        let mut demands = (0..self.joiner()).map(|at| rig.demand(at)).collect::<Result<Vec<_>>>()?;
        for round in 0..self.rounds {
            let mut demand = rig.demand(self.joiner())?;
            (demand.from, demand.until) = (self.moment(round, 0), Some(self.moment(round, 2)));
            demands.push(demand);
        }
        Ok(demands)
    }

    /// Gives the last tenant its other weight once per round, and the first one back while it is away. Says when.
    fn play(&self, rig: &Rig, begin: Instant) -> Result<(Vec<Duration>, super::rig::Between)> {
        let until =
            |moment: Duration| signals::wait((begin + moment).saturating_duration_since(Instant::now()));
        let joiner = rig.tenants.get(self.joiner()).context("no tenant joins")?;
        let first = self.change.setting.tenants.last().map_or(100, |tenant| tenant.weight);
        let weigh = |weight: u32| {
            let path = format!("/tenants/{}/weight", joiner.id);
            rig.gateway.admin("PUT", &path, &json!({"weight": weight}))
        };
        until(self.warmup)?;
        let from = rig.look()?;
        let mut moments = Vec::new();
        for round in 0..self.rounds {
            until(self.moment(round, 1))?;
            // Counted from when the operator asks.
            moments.push(begin.elapsed());
            weigh(self.change.weight)?;
            until(self.moment(round, 2) + self.gap / 2)?;
            weigh(first)?;
        }
        until(self.end())?;
        Ok((moments, rig.between(from, rig.look()?)))
    }

    fn entitled(&self, weight: Option<u32>) -> Vec<f64> {
        let mut setting: Setting = self.change.setting.clone();
        match (setting.tenants.last_mut(), weight) {
            (Some(last), Some(weight)) => last.weight = weight,
            (Some(last), None) => last.max_in_flight = Some(0),
            (None, _) => {}
        }
        setting.entitled()
    }

    fn kinds(&self, reweighted: Vec<Duration>) -> [Kind; 3] {
        let moments = |step| (0..self.rounds).map(|round| self.moment(round, step)).collect();
        let first = self.change.setting.tenants.last().map(|tenant| tenant.weight);
        [
            Kind { name: "join", entitled: self.entitled(first), moments: moments(0) },
            Kind {
                name: "new weight",
                entitled: self.entitled(Some(self.change.weight)),
                moments: reweighted,
            },
            Kind { name: "leave", entitled: self.entitled(None), moments: moments(2) },
        ]
    }

    fn picture(&self, tokens: &[Series]) -> Picture {
        let kinds = self.kinds(Vec::new());
        let per_gap = (self.gap.as_millis() / PICTURE.as_millis()) as usize;
        let count = per_gap * 3 * self.rounds;
        let windows = Windows { first: self.warmup, length: PICTURE, step: PICTURE, count };
        let series: Vec<&Series> = tokens.iter().collect();
        let changes = (0..3 * self.rounds).filter_map(|at| Some((at * per_gap, kinds.get(at % 3)?)));
        let (mut entitled, mut marks) = (Vec::new(), Vec::new());
        for (at, kind) in changes {
            entitled.push((at, kind.entitled.clone()));
            marks.push((at, kind.name.to_owned()));
        }
        let title = "join, new weight, leave".to_owned();
        Picture { title, step: PICTURE, shares: part_of(&windows.counts(&series)), entitled, marks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_all_rounds_are_added_up_and_settle_where_the_last_bad_one_ends() {
        let (mut one, mut two) = (Series::default(), Series::default());
        // The first has all until 500 ms after the change, and half from then on; twice.
        for ms in 0..4000_u64 {
            let after = ms % 2000;
            one.add(Duration::from_millis(ms), if after < 500 { 2 } else { 1 });
            two.add(Duration::from_millis(ms), u32::from(after >= 500));
        }
        let kind = Kind {
            name: "join",
            entitled: vec![0.5, 0.5],
            moments: vec![Duration::ZERO, Duration::from_secs(2)],
        };
        let length = Duration::from_millis(400);
        let count = windows_within(Duration::from_secs(2), length);
        assert_eq!(count, 17);
        let windows = Windows { first: Duration::ZERO, length, step: length / STEPS, count };
        let tokens = [one, two];
        let every = Every { kind: &kind, windows, tokens: &tokens };
        assert_eq!(every.settles(None, 0.05), Some(Duration::from_millis(500)));
        assert_eq!(every.settles(Some(1), 0.05), Some(Duration::from_millis(500)));
        let mut steady = Series::default();
        (0..4000).for_each(|ms| steady.add(Duration::from_millis(ms), 1));
        let finished = [steady.clone(), steady];
        assert_eq!(every.requests_of_weakest(&finished), 800.0, "400 in the windows of either round");
    }
}
