//! Gate 12: a slot for the request.
//!
//! The decision is [`obleth_policy::admission`]'s; here a request waits for it, with its client watched, and gets a
//! [`Permit`], the guard that gives the slot back exactly once, whatever happens to the request.

use std::{pin::pin, rc::Rc, time::Duration};

use obleth_link::Phase;
use obleth_policy::{
    admission::{Ask, Counted, Slot, Wait},
    cost::{Cost, Rates},
    outcome::{Code, DEFAULT_RETRY_AFTER_MS, Reject},
    protocol::{LeafId, Refusal},
    route::Route,
    snapshot::{Brownout, Tenant},
};
use obleth_wire::{http1::HeaderKind, usage::Usage};

use super::{
    Stop,
    ask::{Asked, Terms},
    lookup::Known,
    parse::Call,
    settle::Tally,
};
use crate::{
    downstream::{Downstream, Woke},
    shard::Shard,
    slots::Turn,
};

/// The most input tokens that a request is charged for before its backend has counted them, unless its model says how
/// many fit: an image has many bytes and few tokens.
const MOST_GUESSED_TOKENS: u64 = 32 * 1024;
/// Output tokens of a `/v1/completions` request that says nothing of it, as backends have it.
pub(super) const COMPLETION_TOKENS: u64 = 16;
/// Longest advice to come back later, in milliseconds: SDKs ignore anything from a minute on.
pub(super) const LONGEST_ADVICE_MS: u32 = 59_000;
/// A shorter wait is the way to the coordinator and back, and nobody calls it one.
pub(super) const NOTICED: Duration = Duration::from_millis(1);
/// Headers in which SDKs say how many seconds they wait.
const TIMEOUT: &str = "x-stainless-timeout";
const READ_TIMEOUT: &str = "x-stainless-read-timeout";
/// The most that a request's standing moves its priority by.
const PRIORITY_RANGE: i32 = 1000;

/// A slot in use. Owned by the request, on its shard's thread; dropping it releases the slot at once, and charges what
/// the request is known to have cost.
#[derive(Debug)]
pub(crate) struct Permit {
    shard: Rc<Shard>,
    slot: Option<Slot>,
    rates: Rates,
    input: Cost,
    bytes: u64,
    cost: Cost,
}

/// A request that may run now.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    pub(crate) asked: &'a Asked<'a>,
    pub(crate) permit: &'a mut Permit,
}

/// What the tenant's policy says about waiting.
#[derive(Clone, Copy)]
struct Patience {
    /// The request is refused after this time.
    limit: Duration,
    /// And told so, with this code.
    code: Code,
    brownout: Brownout,
}

pub(super) async fn admit(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    asked: &mut Asked<'_>,
) -> Result<Permit, Stop> {
    if shard.draining.get() {
        return Err(Code::Draining.into());
    }
    let known = asked.known;
    let tenant = known.snapshot.tenant(known.key.tenant).ok_or(Code::TenantNotFound)?;
    let patience = Patience::of(shard, down, call, tenant)?;
    let (ask, input_tokens) = ask(shard, asked, tenant, patience);
    let (slot, terms) = match shard.ask_for_slot(&ask) {
        Ok(slot) => (slot, Terms::default()),
        Err(turn) => wait(shard, down, tally, asked, (turn, patience)).await?,
    };
    // From here on the slot comes back whatever happens.
    let permit = Permit::new(shard, slot, asked, ask.input);
    tally.account.admitted(input_tokens, asked);
    let cap = asked.output_cap.map(|cap| u32::try_from(cap).unwrap_or(u32::MAX));
    let terms = Terms { output_limit: terms.output_limit.into_iter().chain(cap).min(), ..terms };
    if terms.priority.is_some() || terms.output_limit.is_some() {
        asked.agree(down, call.route, terms);
    }
    Ok(permit)
}

/// What is asked of admission, and how many tokens the input probably has.
fn ask(shard: &Shard, asked: &Asked<'_>, tenant: &Tenant, patience: Patience) -> (Ask, u64) {
    let most = asked.model.max_model_len.map_or(MOST_GUESSED_TOKENS, u64::from);
    let tokens = shard.guess_tokens(asked.model.pool, asked.bytes()).min(most);
    let Known { key, tenant: owner, .. } = asked.known;
    let ask = Ask {
        leaf: LeafId { pool: asked.model.pool, tenant: *owner, key: key.id },
        shape: key.shape,
        capped: tenant.max_in_flight.is_some() || key.shape.max_in_flight.is_some(),
        input: asked.model.rates.cost(tokens, 0, 0),
        streams: asked.streamed,
        patience: patience.limit,
        reject_over: (patience.code == Code::Brownout).then_some(patience.limit),
    };
    (ask, tokens)
}

/// The slot, once it is this request's turn, and on what terms; or why not.
async fn wait(
    shard: &Rc<Shard>,
    down: &Downstream,
    tally: &mut Tally,
    asked: &Asked<'_>,
    (mut turn, patience): (Turn<'_>, Patience),
) -> Result<(Slot, Terms), Stop> {
    let began = down.now();
    down.watch();
    down.alarm.set(began.plus(patience.limit));
    let woke = down.wait(pin!(turn.answer())).await;
    down.alarm.clear();
    let waited = down.now().since(began);
    tally.queued(waited);
    if waited >= NOTICED {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        shard.end.gauges().queue_wait.record(micros.div_ceil(1000), micros);
    }
    match woke {
        Woke::Done(Wait::Granted { slot, predicted_ms, standing }) => {
            let limit = shard.settings.brownout.wait;
            let is_long = waited > limit || Duration::from_millis(u64::from(predicted_ms)) > limit;
            let degrades = is_long && patience.brownout == Brownout::Allow;
            let output_limit = degrades.then(|| shorten(shard, asked, tally)).flatten();
            let priority = standing.clamp(-PRIORITY_RANGE, PRIORITY_RANGE);
            let priority = (asked.model.sends_priority && priority != 0).then_some(priority);
            Ok((slot, Terms { priority, output_limit }))
        }
        Woke::Done(Wait::Refused { why, retry_after_ms }) => {
            let code = match why {
                Refusal::PoolClosed => Code::PoolClosed,
                Refusal::QueueFull => Code::QueueFull,
                Refusal::Unmeetable => Code::DeadlineUnmeetable,
                Refusal::Brownout => Code::Brownout,
            };
            Err(later(code, retry_after_ms))
        }
        Woke::Done(Wait::Waiting) => Err(Code::QueueTimeout.into()),
        Woke::Gone => Err(Stop::ClientGone(Phase::Queued)),
        Woke::Alarm => {
            let waited_ms = u32::try_from(patience.limit.as_millis()).unwrap_or(u32::MAX);
            Err(later(patience.code, waited_ms))
        }
        Woke::Expired => Err(Code::Draining.into()),
    }
}

/// A refusal that says when another try may be worth it.
fn later(code: Code, after_ms: u32) -> Stop {
    let after = after_ms.clamp(DEFAULT_RETRY_AFTER_MS, LONGEST_ADVICE_MS);
    Stop::Refused(Reject { retry_after_ms: Some(after), ..Reject::from(code) })
}

/// The limit for an answer that is made shorter; `None` if the client asked for no more.
fn shorten(shard: &Shard, asked: &Asked<'_>, tally: &mut Tally) -> Option<u32> {
    let limit = shard.settings.brownout.max_tokens;
    let wanted = match tally.route() {
        Route::Chat => asked.output_limit,
        Route::Completions => Some(asked.output_limit.unwrap_or(COMPLETION_TOKENS)),
        _ => return None,
    };
    if wanted.is_some_and(|wanted| wanted <= u64::from(limit)) {
        return None;
    }
    shard.end.gauges().degraded.add(1);
    tally.degraded(limit);
    Some(limit)
}

impl Patience {
    /// The least of what the client, the tenant's policy and the operator allow.
    fn of(shard: &Shard, down: &Downstream, call: &Call, tenant: &Tenant) -> Result<Self, Reject> {
        let settings = &shard.settings;
        let brownout = tenant.brownout;
        let mut least = Self { limit: settings.admission_timeout, code: Code::QueueTimeout, brownout };
        if brownout == Brownout::Reject && settings.brownout.wait < least.limit {
            least = Self { limit: settings.brownout.wait, code: Code::Brownout, brownout };
        }
        let inlet = down.inlet();
        for header in call.head.headers.iter().filter(|header| header.kind == HeaderKind::Patience) {
            let text = std::str::from_utf8(header.value.of(&inlet)).ok();
            // Anything else than a number says nothing.
            let Some(seconds) = text.and_then(|text| text.parse::<f64>().ok()) else { continue };
            if seconds < 0.0 {
                let read = header.name.of(&inlet).len() == READ_TIMEOUT.len();
                return Err(past_deadline(if read { READ_TIMEOUT } else { TIMEOUT }));
            }
            let Ok(limit) = Duration::try_from_secs_f64(seconds) else { continue };
            if limit > Duration::ZERO && limit < least.limit {
                least = Self { limit, code: Code::QueueTimeout, brownout };
            }
        }
        Ok(least)
    }
}

fn past_deadline(header: &'static str) -> Reject {
    let message =
        format!("`{header}` is in the past. Send the seconds that the client waits, or leave it out.");
    Reject::new(Code::InvalidParameter, message).param(header)
}

impl Permit {
    fn new(shard: &Rc<Shard>, slot: Slot, asked: &Asked<'_>, input: Cost) -> Self {
        let gauges = shard.end.gauges();
        gauges.in_flight.add(1);
        if let Some(count) = gauges.pool_in_flight(slot.pool) {
            count.add(1);
        }
        let (rates, bytes) = (asked.model.rates, asked.bytes());
        Self { shard: Rc::clone(shard), slot: Some(slot), rates, input, bytes, cost: Cost(0) }
    }

    /// What the request has used so far: as the backend says, or as was counted going by.
    pub(super) fn used(&mut self, usage: Option<Usage>, counted_output: u64) {
        let cost = match usage {
            Some(usage) => self.rates.cost(usage.input, usage.cached_input, usage.output),
            None if counted_output == 0 => return,
            None => self.input.plus(self.rates.cost(0, 0, counted_output)),
        };
        let Some(slot) = self.slot.as_ref().filter(|_| cost != self.cost) else { return };
        self.cost = cost;
        if let Some(usage) = usage {
            let cost = self.rates.cost(usage.input, usage.cached_input, 0);
            self.shard.learn_input(slot, Counted { cost, tokens: usage.input, bytes: self.bytes });
        }
        self.shard.slot_progress(slot, cost);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let gauges = self.shard.end.gauges();
        gauges.in_flight.sub(1);
        if let Some(count) = gauges.pool_in_flight(slot.pool) {
            count.sub(1);
        }
        self.shard.release_slot(slot, self.cost);
        if self.shard.draining.get() {
            self.shard.stir();
        }
    }
}
