//! Gate 10: what a request may come to is reserved from all its limits, or from none.
//!
//! Rates reserve what is likely; budgets are hard, so they reserve the most that a request can come to, and where less
//! is left the answer is made shorter. What it came to is settled with the request's ledger record, by the same figures.
//! A request whose limits have credits on this core waits for nobody.

mod claim;
mod refusal;

use std::{pin::pin, rc::Rc, time::Duration};

use obleth_ledger::Record;
use obleth_link::Phase;
use obleth_policy::{
    limit::{Lacking, Measure, Rate, Reserved, Scope, Scopes, Unit},
    outcome::Code,
};

use self::claim::Claim;
use super::{Stop, ask::Asked, lookup::Known, settle::Tally};
use crate::{
    downstream::{Downstream, Woke},
    shard::Shard,
};

/// How long a request waits for the owner of the limits, who answers within microseconds. Longer, and it is as if there
/// were none.
const PATIENCE: Duration = Duration::from_millis(250);

/// What a request has reserved from its limits. Owned by its [`Tally`]; dropping it gives everything back at once.
#[derive(Debug)]
pub(super) struct Reservation {
    shard: Rc<Shard>,
    reserved: Option<Reserved>,
}

impl Reservation {
    /// The request came to what its record says; `ran` says whether a backend took it.
    pub(super) fn settle(mut self, record: &Record, ran: bool) {
        let Some(reserved) = self.reserved.take() else { return };
        let tokens = record.tokens.input.saturating_add(record.tokens.output);
        self.shard.settle_credits(reserved, |measure| match measure.unit() {
            Unit::Requests => u64::from(ran),
            Unit::Tokens if record.usage_source.is_some() => tokens,
            Unit::MicroUsd => record.cost.map_or(0, |cost| cost.0),
            Unit::Tokens => 0,
        });
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(reserved) = self.reserved.take() {
            self.shard.settle_credits(reserved, |_| 0);
        }
    }
}

/// How the tightest rates of a request stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
}

impl Rates {
    /// As they stand now, for requests of this key.
    pub(super) fn of(shard: &Shard, known: &Known) -> Self {
        let scopes = scopes(known);
        if scopes.is_empty() {
            return Self::default();
        }
        let rate = |measure| shard.rate(&scopes, measure);
        Self { requests: rate(Measure::RequestsPerMinute), tokens: rate(Measure::TokensPerMinute) }
    }
}

/// Reserves what the request may come to. An answer that has to be shorter is noted in `asked`.
pub(super) async fn fund(
    shard: &Rc<Shard>,
    down: &Downstream,
    tally: &mut Tally,
    asked: &mut Asked<'_>,
) -> Result<(), Stop> {
    let known = asked.known;
    let scopes = scopes(known);
    if scopes.is_empty() {
        return Ok(());
    }
    let claim = Claim::of(shard, tally.route(), asked);
    let funded = reserve(shard, down, &scopes, &claim).await;
    tally.rates = Rates::of(shard, known);
    let Some((reserved, output)) = funded? else { return Ok(()) };
    tally.reservation = Some(Reservation { shard: Rc::clone(shard), reserved: Some(reserved) });
    if output < claim.output {
        asked.output_limit = Some(output);
        asked.output_cap = Some(output);
        tally.capped = Some(output);
    }
    Ok(())
}

/// Everything that it needs, and the tokens that the answer may have; `None` if it goes on without.
async fn reserve(
    shard: &Rc<Shard>,
    down: &Downstream,
    scopes: &Scopes<'_>,
    claim: &Claim,
) -> Result<Option<(Reserved, u64)>, Stop> {
    // A first look at what is left takes as little as there can be.
    let mut known = open_output(shard, scopes, claim);
    let mut output = known.unwrap_or(claim.least_output());
    let mut waits = false;
    loop {
        let want = |measure| claim.want(measure, output);
        let reserved = shard.credits.purses.borrow_mut().reserve(shard.both_clocks(), scopes, want);
        shard.speak_of_credits();
        let lacking = match reserved {
            Ok(reserved) if known.is_none() => {
                shard.settle_credits(reserved, |_| 0);
                known = open_output(shard, scopes, claim);
                output = known.unwrap_or(output);
                continue;
            }
            Ok(reserved) => {
                if waits {
                    down.alarm.clear();
                    shard.credits.unanswered.set(false);
                }
                return Ok(Some((reserved, output)));
            }
            Err(lacking) => lacking,
        };
        if !std::mem::replace(&mut waits, true) {
            down.watch();
            down.alarm.set_in(Some(PATIENCE));
        }
        match down.wait(pin!(shard.credits_answered(&lacking))).await {
            Woke::Done(()) => {}
            Woke::Gone => return Err(Stop::ClientGone(Phase::Queued)),
            Woke::Expired => return Err(Code::Draining.into()),
            Woke::Alarm => return without(shard).map(|()| None),
        }
        let purses = shard.credits.purses.borrow();
        if let Some(shortage) = purses.shortage(&lacking, want) {
            down.alarm.clear();
            let limit = scopes.iter().find(|(scope, _)| *scope == shortage.meter.scope);
            let limit = limit.and_then(|(_, limits)| limits.get(shortage.meter.measure)).unwrap_or_default();
            return Err(refusal::refuse(&shortage, limit, claim).into());
        }
        let affordable = affordable(shard, &lacking, claim, output);
        if affordable >= claim.least_output() {
            output = affordable;
        }
    }
}

/// How long the answer may be, by what is left of all budgets; `None` while that is not known of each.
fn open_output(shard: &Shard, scopes: &Scopes<'_>, claim: &Claim) -> Option<u64> {
    if !claim.is_open {
        return Some(claim.output);
    }
    let left = shard.credits.purses.borrow().left(shard.both_clocks(), scopes);
    let modest = left.iter().map(|(measure, left)| Some(claim.modest(*measure, (*left)?)));
    let least = modest.collect::<Option<Vec<_>>>()?.into_iter().min();
    Some(least.unwrap_or(claim.output).max(claim.least_output()))
}

/// The longest answer that the budgets pay for which had less than was asked of them.
fn affordable(shard: &Shard, lacking: &Lacking, claim: &Claim, output: u64) -> u64 {
    let purses = shard.credits.purses.borrow();
    let budgets = purses.free(shard.both_clocks(), lacking).filter(|(measure, _)| measure.is_budget());
    budgets.map(|(measure, free)| claim.affordable(measure, free, output)).min().unwrap_or(output)
}

/// Nobody has answered whether there is room.
fn without(shard: &Shard) -> Result<(), Stop> {
    let is_first = !shard.credits.unanswered.replace(true);
    shard.end.gauges().unfunded.add(1);
    match shard.settings.fail_open {
        true if is_first => tracing::warn!(target: "obleth_proxy", "budget reserve failed; failing open"),
        false if is_first => tracing::warn!(target: "obleth_proxy", "budget reserve failed; refusing"),
        _ => {}
    }
    if shard.settings.fail_open { Ok(()) } else { Err(Code::Overloaded.into()) }
}

/// Everything that limits requests of this key.
fn scopes(known: &Known) -> Scopes<'_> {
    let Known { key, snapshot, .. } = known;
    let mut scopes = Scopes::new();
    let mut add = |scope, limits| scopes.push((scope, limits));
    if !key.limits.is_none() {
        add(Scope::Key(key.id), &key.limits);
    }
    if let Some(tenant) = snapshot.tenant(key.tenant) {
        if !tenant.limits.is_none() {
            add(Scope::Tenant(tenant.id), &tenant.limits);
        }
        if !tenant.group_limits.is_none() {
            add(Scope::Group(tenant.group_id), &tenant.group_limits);
        }
    }
    scopes
}
