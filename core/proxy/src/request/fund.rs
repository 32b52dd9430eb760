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
    limit::{Lacking, Measure, Rate, Reserved, Scope, Scopes, Shortage, Unit},
    outcome::{Code, Reject},
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
/// The same while the last one that waited had no answer.
const BRIEF: Duration = Duration::from_millis(5);
/// Answers that one request waits for, because others use up what it was granted. Those who wait are served in their order,
/// so it takes a crowd of them.
const MOST_ROUNDS: u32 = 512;

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
        Self::within(shard, &scopes(known))
    }

    fn within(shard: &Shard, scopes: &Scopes<'_>) -> Self {
        if scopes.is_empty() {
            return Self::default();
        }
        let [requests, tokens] = shard.rates(scopes, [Measure::RequestsPerMinute, Measure::TokensPerMinute]);
        Self { requests, tokens }
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
    let funded = Funding { shard, down, scopes: &scopes, claim: &claim }.find().await;
    tally.rates = Rates::within(shard, &scopes);
    let (reserved, output) = funded?;
    tally.reservation = Some(Reservation { shard: Rc::clone(shard), reserved: Some(reserved) });
    let is_shorter = output < claim.output;
    let has_budget =
        || scopes.iter().any(|(_, limits)| limits.iter().any(|(measure, _)| measure.is_budget()));
    if is_shorter || claim.is_ambiguous && has_budget() {
        let cap = output.min(claim.most_cap);
        (asked.output_limit, asked.output_cap) = (Some(cap), Some(cap));
        tally.capped = is_shorter.then_some(cap);
    }
    Ok(())
}

/// One request in search of room in all its limits.
struct Funding<'a, 's> {
    shard: &'a Rc<Shard>,
    down: &'a Downstream,
    scopes: &'a Scopes<'s>,
    claim: &'a Claim,
}

/// What came of waiting for the owner.
enum Waited {
    Answered,
    /// Nobody said anything.
    InVain,
}

impl Funding<'_, '_> {
    /// What was reserved, and the tokens that the answer may have.
    async fn find(&self) -> Result<(Reserved, u64), Stop> {
        let &Self { shard, scopes, claim, .. } = self;
        let mut output = claim.output;
        if claim.is_open {
            match self.open_output().await? {
                Some(modest) => output = modest,
                None => return self.go_without(),
            }
        }
        for round in 0..MOST_ROUNDS {
            let want = |measure| claim.want(measure, output);
            let reserved = {
                let mut purses = shard.credits.purses.borrow_mut();
                let (need, least) =
                    (|measure| claim.need(measure, output), |measure| claim.least(measure).unwrap_or(0));
                purses.reserve(shard.both_clocks(), scopes, round > 0, (need, least))
            };
            shard.speak_of_credits();
            let lacking = match reserved {
                Ok(reserved) => return Ok((reserved, output)),
                Err(lacking) => lacking,
            };
            if let Waited::InVain = self.wait(&lacking).await? {
                return self.go_without();
            }
            let purses = shard.credits.purses.borrow();
            if let Some(shortage) = purses.shortage(&lacking, want) {
                return Err(self.refuse(&shortage));
            }
            // The longest answer that those budgets pay for which had less than was asked of them.
            let budgets = purses.free(shard.both_clocks(), &lacking).filter(|(of, _)| of.is_budget());
            let affordable = budgets.map(|(of, free)| claim.affordable(of, free, output)).min();
            let affordable = affordable.unwrap_or(output);
            if affordable >= claim.least_output() {
                output = affordable;
            }
        }
        // There was room every time, and others were faster every time.
        Err(unanswered("Too many requests share a limit that is nearly used up. Try again shortly."))
    }

    /// How long an answer may be that nobody has named a limit for, by what is left of all budgets; `None` if nobody says.
    async fn open_output(&self) -> Result<Option<u64>, Stop> {
        let &Self { shard, scopes, claim, .. } = self;
        let want = |measure| claim.want(measure, claim.output);
        let modest = || {
            let left = shard.credits.purses.borrow().left(shard.both_clocks(), scopes, want)?;
            let least = left.iter().map(|(measure, left)| claim.modest(*measure, *left)).min();
            Some(least.unwrap_or(claim.output).max(claim.least_output()))
        };
        if modest() == Some(claim.output) {
            return Ok(Some(claim.output));
        }
        // What is known may be old, and to make an answer shorter for it would be wrong.
        let lacking = shard.credits.purses.borrow_mut().ask_anew(shard.both_clocks(), scopes, want);
        shard.speak_of_credits();
        if !lacking.is_empty()
            && let Waited::InVain = self.wait(&lacking).await?
        {
            return Ok(None);
        }
        // A period may have ended meanwhile; then all of it is left.
        Ok(Some(modest().unwrap_or(claim.output)))
    }

    async fn wait(&self, lacking: &Lacking) -> Result<Waited, Stop> {
        let &Self { shard, down, .. } = self;
        let patience = if shard.credits.unanswered.get() { BRIEF } else { PATIENCE };
        down.watch();
        down.alarm.set_in(Some(patience));
        let woke = down.wait(pin!(shard.credits_answered(lacking))).await;
        down.alarm.clear();
        match woke {
            Woke::Done(()) => Ok(Waited::Answered),
            Woke::Alarm => Ok(Waited::InVain),
            Woke::Gone => Err(Stop::ClientGone(Phase::Queued)),
            Woke::Expired => Err(Code::Draining.into()),
        }
    }

    fn refuse(&self, shortage: &Shortage) -> Stop {
        let limit = self.scopes.iter().find(|(scope, _)| *scope == shortage.meter.scope);
        let limit = limit.and_then(|(_, limits)| limits.get(shortage.meter.measure)).unwrap_or_default();
        refusal::refuse(shortage, limit, self.claim).into()
    }

    /// Nobody has said whether there is room. What the request comes to counts all the same.
    fn go_without(&self) -> Result<(Reserved, u64), Stop> {
        let &Self { shard, scopes, claim, .. } = self;
        shard.end.gauges().unfunded.add(1);
        let is_first = !shard.credits.unanswered.replace(true);
        if !shard.settings.fail_open {
            if is_first {
                tracing::warn!(target: "obleth_proxy", "budget reserve failed; refusing");
            }
            let why =
                "What the limits of this key have left cannot be said at the moment. Try again shortly.";
            return Err(unanswered(why));
        }
        if is_first {
            tracing::warn!(target: "obleth_proxy", "budget reserve failed; failing open");
        }
        Ok((shard.credits.purses.borrow_mut().unfunded(shard.both_clocks(), scopes), claim.output))
    }
}

/// Nobody can say whether there is room: another try may find out.
fn unanswered(why: &'static str) -> Stop {
    Reject::new(Code::Overloaded, why).into()
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
