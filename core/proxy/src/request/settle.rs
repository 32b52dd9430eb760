//! The end of a request: what it was, how long it took, what it cost.
//!
//! A [`Tally`] collects times and usage along the path; [`settle`] turns it into figures and the ledger's row, once,
//! before the client has the last byte of its answer.

use std::{rc::Rc, time::Duration};

use obleth_link::Phase;
use obleth_policy::{
    outcome::{Code, Ending},
    route::Route,
    unit::Instant,
};
use obleth_wire::usage::Usage;

use super::{
    dispatch::Traces,
    fund::{Rates, Reservation},
    parse::Call,
    record::Account,
};
use crate::{shard::Shard, trouble::Cause};

/// What is known of a request so far. Owned by the request.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(super) shard: Rc<Shard>,
    pub(super) account: Account,
    pub(super) route: Route,
    pub(super) parsed_at: Instant,
    dispatched_at: Option<Instant>,
    pub(super) first_byte_at: Option<Instant>,
    left: Option<Phase>,
    pub(super) queued: Option<Duration>,
    pub(super) degraded: Option<u32>,
    /// What a budget left for each answer, where that was less than the client allowed.
    pub(super) capped: Option<u64>,
    pub(super) rates: Rates,
    pub(super) reservation: Option<Reservation>,
    pub(super) usage: Option<Usage>,
    pub(super) counted_output: Option<u64>,
    fault: Option<Code>,
    cause: Option<Cause>,
}

impl Tally {
    pub(super) fn begin(shard: &Rc<Shard>, call: &Call) -> Self {
        Self {
            shard: Rc::clone(shard),
            account: Account::new(call),
            route: call.route,
            parsed_at: call.parsed_at,
            dispatched_at: None,
            first_byte_at: None,
            left: None,
            queued: None,
            degraded: None,
            capped: None,
            rates: Rates::default(),
            reservation: None,
            usage: None,
            counted_output: None,
            fault: None,
            cause: None,
        }
    }

    /// The request goes to a backend, which the ledger is told before.
    pub(super) fn dispatched(&mut self, now: Instant) {
        self.dispatched_at = Some(now);
        self.note_start();
    }

    /// A backend was found, or none.
    pub(super) fn searched(&mut self, traces: &Traces) {
        self.account.searched(traces);
    }

    pub(super) fn dispatched_at(&self) -> Instant {
        self.dispatched_at.unwrap_or(self.parsed_at)
    }

    /// The first byte of content goes to the client; only the first call counts.
    pub(super) fn first_byte(&mut self, now: Instant) {
        self.first_byte_at.get_or_insert(now);
    }

    /// What was asked for.
    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// The request has waited for a slot this long.
    pub(super) fn queued(&mut self, waited: Duration) {
        self.queued = Some(waited);
    }

    /// How long it has waited for a slot, in milliseconds.
    pub(super) fn queue_ms(&self) -> u64 {
        self.queued.map_or(0, |waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
    }

    /// The answer is made shorter, to this many tokens.
    pub(super) fn degraded(&mut self, max_tokens: u32) {
        self.degraded = Some(max_tokens);
    }

    /// What the answer was made shorter to.
    pub(super) fn shortened_to(&self) -> Option<u64> {
        self.degraded.map(u64::from).into_iter().chain(self.capped).min()
    }

    /// The client left in this phase.
    pub(super) fn left(&mut self, phase: Phase) {
        self.left = Some(phase);
    }

    /// What the backend said it used, and what was counted going by where it can be; the latter stands in where it said
    /// nothing.
    pub(super) fn used(&mut self, usage: Option<Usage>, counted_output: Option<u64>) {
        self.usage = usage.or(self.usage);
        self.counted_output = counted_output;
    }

    /// The client has a whole answer, in which the backend itself says that it failed.
    pub(super) fn failed(&mut self, code: Code) {
        self.fault = Some(code);
    }

    /// What the backend did wrong in its answer, whether or not the client has it whole.
    pub(super) fn blame(&mut self, cause: Cause) {
        self.cause = Some(cause);
    }

    /// What the backend did wrong in its answer, for the log.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How a request ended whose answer is complete.
    pub(super) fn completed(&self) -> Ending {
        self.fault.map_or(Ending::OK, Ending::failed_after_head)
    }

    pub(super) fn overhead(&self) -> Option<Duration> {
        self.dispatched_at.map(|at| at.since(self.parsed_at).saturating_sub(self.queued.unwrap_or_default()))
    }

    /// From the parsed head to dispatch, less the wait for a slot, in microseconds.
    pub(super) fn overhead_us(&self) -> u64 {
        self.overhead().map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Puts a finished request into the ledger and the figures.
pub(super) fn settle(mut tally: Tally, ending: Ending) {
    tally.close(ending);
    let tally = &tally;
    let gauges = tally.shard.end.gauges();
    if let Some(counter) = gauges.requests(tally.route, ending) {
        counter.add(1);
    }
    if let Some(counter) = tally.left.and_then(|phase| gauges.client_closed(phase)) {
        counter.add(1);
    }
    let Some(overhead) = tally.overhead() else { return };
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    gauges.overhead.record(micros(overhead), u64::try_from(overhead.as_nanos()).unwrap_or(u64::MAX));
    let total = micros(tally.shard.timers.clock().recent().since(tally.parsed_at));
    gauges.duration.record(total.div_ceil(1000), total);
    if let Some(at) = tally.first_byte_at {
        let ttft = micros(at.since(tally.parsed_at));
        gauges.ttft.record(ttft.div_ceil(1000), ttft);
    }
    match tally.usage {
        Some(usage) => {
            gauges.input_tokens.add(usage.input);
            gauges.output_tokens.add(usage.output);
        }
        None => gauges.output_tokens.add(tally.counted_output.unwrap_or(0)),
    }
}
