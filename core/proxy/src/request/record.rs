//! What the ledger is told of a request: when it goes to a backend, and when it is over.
//!
//! It exists because money rests on it. Every request of a key that exists has exactly one row, refusals and `GET
//! /v1/models` included, written before the last byte of its answer leaves. The first note of a request that goes to a
//! backend says what its row would be if nothing more were heard: so neither a dead process nor a dropped request is
//! forgotten. Nothing here waits, and nothing here fails a request.

use std::time::Duration;

use obleth_ledger::{Admission, Kind, Record, Text, Tokens, UsageSource};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, PoolIx, TenantId},
    key::KeyRecord,
    outcome::{Ending, Outcome},
    price::{Prices, Quantity},
    route::Route,
    snapshot::{Model, Tenant},
    unit::UnixMs,
};
use uuid::Uuid;

use super::{admit::NOTICED, ask::Asked, dispatch::Traces, parse::Call, settle::Tally};

/// Bytes of an answer per token, for one that is whole and says nothing of its usage.
const BYTES_PER_TOKEN: u64 = 4;

/// Whose a request is, what it asks for, and how far it came. Owned by its [`Tally`].
#[derive(Debug)]
pub(super) struct Account {
    id: Uuid,
    arrived: UnixMs,
    request_id: Text,
    session_id: Option<Text>,
    party: Option<Party>,
    model: Option<ModelId>,
    prices: Prices,
    streamed: bool,
    pool: PoolIx,
    /// Of its body.
    sent: u64,
    /// It has a slot, or had one.
    admitted: bool,
    /// What its input probably comes to.
    input_guess: u64,
    /// What its answer comes to at most, as far as anybody said.
    most_output: u64,
    upstream: Option<EndpointId>,
    attempts: u32,
    /// A backend took it, or may have.
    ran: bool,
    /// The backend's status, where it is one of success.
    success: u16,
    /// Bytes of the answer's body, unless it is a stream of events.
    bytes: u64,
    /// Its last note is out.
    closed: bool,
}

/// Who is charged.
#[derive(Clone, Copy, Debug)]
struct Party {
    tenant: TenantId,
    key: KeyId,
    group: Option<GroupId>,
}

impl Account {
    pub(super) fn new(call: &Call) -> Self {
        Self {
            id: call.id,
            arrived: call.arrived,
            request_id: call.request_id.text().clone(),
            session_id: None,
            party: None,
            model: None,
            prices: Prices::default(),
            streamed: false,
            pool: PoolIx(0),
            sent: 0,
            admitted: false,
            input_guess: 0,
            most_output: u64::MAX,
            upstream: None,
            attempts: 0,
            ran: false,
            success: 200,
            bytes: 0,
            closed: false,
        }
    }

    /// It is this key's; `tenant` is `None` if it was deleted.
    pub(super) fn belongs(&mut self, key: &KeyRecord, tenant: Option<&Tenant>, session: Option<&[u8]>) {
        let group = tenant.map(|tenant| tenant.group_id);
        self.party = Some(Party { tenant: key.tenant, key: key.id, group });
        self.session_id = session.and_then(|id| str::from_utf8(id).ok()).map(Text::new);
    }

    /// It asks for this model.
    pub(super) fn asks(&mut self, model: &Model, streamed: bool, bytes: usize) {
        (self.model, self.prices, self.streamed) = (Some(model.id), model.prices, streamed);
        (self.pool, self.sent) = (model.pool, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// It has a slot. Its input has about so many tokens.
    pub(super) fn admitted(&mut self, input_tokens: u64, asked: &Asked<'_>) {
        (self.admitted, self.input_guess) = (true, input_tokens);
        let context = asked.model.max_model_len.map(|most| u64::from(most).saturating_sub(input_tokens));
        let most = asked.output_limit.into_iter().chain(context).min();
        self.most_output = most.unwrap_or(u64::MAX);
    }

    pub(super) fn searched(&mut self, traces: &Traces) {
        self.attempts = traces.attempts.get();
        self.upstream = traces.upstream.get();
        self.ran = traces.may_have_run.get();
    }

    /// A backend answers it, with this status of success.
    pub(super) fn taken(&mut self, status: u16) {
        (self.ran, self.success) = (true, status);
    }

    /// So many bytes of its answer went by.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

impl Tally {
    /// What the ledger should believe if it hears no more.
    pub(super) fn note_start(&mut self) {
        // Whatever becomes of the search for a backend, until it says more.
        self.account.ran = true;
        if let Some(record) = &self.record(LOST) {
            self.shard.ledger.note(Kind::Start, record);
        }
    }

    /// It is over, like this: the ledger's last note, what is learnt from it, and its reservation settled by the same record.
    pub(super) fn close(&mut self, ending: Ending) {
        self.account.closed = true;
        let record = self.record(ending);
        // Looked at where it is, because it is large.
        let Some(record) = &record else { return };
        if record.usage_source.is_some() && record.cost.is_none() {
            self.shard.end.gauges().unpriced.add(1);
        }
        self.shard.ledger.note(Kind::End, record);
        let Account { ran, pool, sent, .. } = self.account;
        if ending == Ending::OK && record.usage_source == Some(UsageSource::Upstream) {
            let Tokens { input, output, .. } = record.tokens;
            self.shard.credits.foresight.borrow_mut().learn(pool, (sent, input), output);
        }
        // After the note: whoever compares limits with the ledger finds nothing in them that it has not heard of.
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(record, ran);
        }
    }

    /// The row, as far as it is known; `None` of a request that no key of ours made.
    fn record(&self, ending: Ending) -> Option<Record> {
        let Account { id, arrived, ref request_id, ref session_id, model, prices, streamed, .. } =
            self.account;
        let Party { tenant, key, group } = self.account.party?;
        let (tokens, usage_source) = self.spent(ending);
        let Tokens { input, cached_input, output } = tokens;
        let used = Quantity { input, cached_input, output, ..Quantity::default() };
        let now = self.shard.timers.clock().recent();
        Some(Record {
            id,
            ts: arrived,
            tenant,
            key,
            group,
            model,
            endpoint: self.route,
            upstream: self.account.upstream,
            status: if ending.status == Ending::OK.status { self.account.success } else { ending.status },
            outcome: ending.outcome,
            code: ending.code,
            admission: self.admission(),
            queue_ms: millis(self.queued.unwrap_or_default()),
            ttft_ms: self.first_byte_at.map(|at| millis(at.since(self.parsed_at))),
            total_ms: millis(now.since(self.parsed_at)),
            overhead_us: self.overhead().map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX)),
            tokens,
            usage_source,
            // Nothing used costs nothing that could be known.
            cost: usage_source.and_then(|_| prices.cost(&used)),
            price_version: Some(prices.version).filter(|version| *version > 0),
            streamed,
            retries: u8::try_from(self.account.attempts.saturating_sub(1)).unwrap_or(u8::MAX),
            request_id: request_id.clone(),
            session_id: session_id.clone(),
        })
    }

    /// What it used, and who says so.
    fn spent(&self, ending: Ending) -> (Tokens, Option<UsageSource>) {
        match (self.usage, self.counted_output) {
            // What was said before an answer broke off may be older than what was seen since.
            (Some(usage), Some(counted)) if ending != Ending::OK && usage.output < counted => {
                let (input, cached_input) = (usage.input, usage.cached_input);
                (Tokens { input, cached_input, output: counted }, Some(UsageSource::Counted))
            }
            (Some(usage), _) => {
                let (input, cached_input, output) = (usage.input, usage.cached_input, usage.output);
                (Tokens { input, cached_input, output }, Some(UsageSource::Upstream))
            }
            (None, Some(counted)) => {
                let input = self.account.input_guess;
                (Tokens { input, cached_input: 0, output: counted }, Some(UsageSource::Counted))
            }
            (None, None) if self.account.ran => self.guessed(),
            (None, None) => (Tokens::default(), None),
        }
    }

    /// What it uses, going by its size.
    fn guessed(&self) -> (Tokens, Option<UsageSource>) {
        let output = match self.route {
            Route::Embeddings => 0,
            _ => (self.account.bytes / BYTES_PER_TOKEN).min(self.account.most_output),
        };
        let tokens = Tokens { input: self.account.input_guess, cached_input: 0, output };
        (tokens, Some(UsageSource::Estimated))
    }

    fn admission(&self) -> Admission {
        match (self.account.admitted, self.degraded, self.queued) {
            // It needs no slot.
            (false, ..) if self.route == Route::Models => Admission::Fast,
            (false, ..) => Admission::Rejected,
            (true, Some(_), _) => Admission::Degraded,
            (true, None, Some(waited)) if waited >= NOTICED => Admission::Queued,
            (true, ..) => Admission::Fast,
        }
    }
}

impl Drop for Tally {
    /// The request was dropped on its way, because its task panicked or its shard died: what was seen until then counts.
    fn drop(&mut self) {
        if !self.account.closed {
            self.close(LOST);
        }
    }
}

/// What a request's row says while nothing is known of its end.
const LOST: Ending = Ending { status: 0, outcome: Outcome::GatewayLost, code: None };

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
