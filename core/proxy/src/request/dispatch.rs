//! Gate 13: the request goes to a backend, and the head of its answer comes back.
//!
//! A model's endpoints are tried in the order of preference until one has an answer. A request goes to another try
//! only when it cannot have run: no connection came about, a connection from the pool turned out to be closed before
//! a single byte came back, or the backend said with a 429 or 503 that it did not take it. Anything else may have
//! run, and is not run again. What the last backend said that had no room is what the client is told if no other
//! could be reached.

use std::{cell::Cell, io, net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use obleth_link::{Attempt, Phase};
use obleth_policy::{
    id::EndpointId,
    outcome::{Code, RELAYED_STATUSES, Reject},
    snapshot::Endpoint,
};
use obleth_wire::{
    http1::{BodyDecoder, HeaderKind, Limits},
    openai::StripUsage,
};

use super::{
    Stop,
    admit::{Admitted, Permit},
    ask::Asked,
    errand::{Errand, Failed},
    exchange::{Answer, Deadlines, Interrupt, guarded},
    parse::Call,
    settle::Tally,
    verdict,
};
use crate::{
    connect::connect,
    downstream::{Downstream, Woke},
    pool::{Line, Upstream},
    shard::Shard,
    trouble::{Cause, is_ours},
};

/// Connections that one request may try to make, over all endpoints and the addresses of their names. Past it the
/// request ends as if there were no more of them.
const MAX_CONNECTS: u32 = 64;
/// How long the words of a backend without room are waited for when there is another one to ask.
const BRIEF: Duration = Duration::from_millis(100);

/// An answer that goes to the client: its status is 2xx.
#[derive(Debug)]
pub(crate) struct Answering<'a> {
    pub(super) answer: Answer,
    pub(super) deadlines: Deadlines,
    pub(super) strip_usage: StripUsage,
    pub(super) permit: &'a mut Permit,
    /// The client waits for a stream.
    pub(super) streamed: bool,
}

impl Answering<'_> {
    /// Whose answer it is.
    pub(super) fn endpoint(&self) -> EndpointId {
        self.answer.upstream.endpoint
    }

    /// Whether the backend encoded it, though it was not asked to.
    pub(super) fn encoded(&self) -> bool {
        let coding = self.answer.head.get(&self.answer.head_bytes, HeaderKind::ContentEncoding);
        coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    }

    /// Whether the backend sends events that can be read: compressed ones are passed on as they are.
    pub(super) fn streams(&self) -> bool {
        let value = |kind| self.answer.head.get(&self.answer.head_bytes, kind);
        const EVENTS: &[u8] = b"text/event-stream";
        let is_events =
            |kind: &[u8]| kind.get(..EVENTS.len()).is_some_and(|k| k.eq_ignore_ascii_case(EVENTS));
        value(HeaderKind::ContentType).is_some_and(is_events) && !self.encoded()
    }
}

pub(super) async fn dispatch<'a>(
    shard: &Rc<Shard>,
    down: &Downstream,
    call: &Call,
    tally: &mut Tally,
    admitted: Admitted<'a>,
) -> Result<Answering<'a>, Stop> {
    let Admitted { asked, permit } = admitted;
    tally.dispatched(shard.timers.clock().now());
    let deadlines = Deadlines::new(asked.model.timers, tally.dispatched_at());
    down.watch();
    let traces = Traces::default();
    let answer = Search { shard, down, call, asked, deadlines, traces: &traces }.run().await;
    tally.searched(&traces);
    let answer = answer?;
    if !(200..300).contains(&answer.head.status) {
        return Err(verdict::refuse(shard, down, answer, verdict::BODY_TIME).await);
    }
    tally.account.taken(answer.head.status);
    let &Asked { strip_usage, streamed, .. } = asked;
    Ok(Answering { answer, deadlines, strip_usage, permit, streamed })
}

/// What a search leaves behind, however it ends.
#[derive(Debug, Default)]
pub(super) struct Traces {
    connects: Cell<u32>,
    /// Tries at backends.
    pub(super) attempts: Cell<u32>,
    /// Who was tried last.
    pub(super) upstream: Cell<Option<EndpointId>>,
    /// A backend may have begun to work on the request, and did not say that it refused to.
    pub(super) may_have_run: Cell<bool>,
}

/// One request on its way to one of a model's endpoints.
struct Search<'a> {
    shard: &'a Rc<Shard>,
    down: &'a Downstream,
    call: &'a Call,
    asked: &'a Asked<'a>,
    deadlines: Deadlines,
    traces: &'a Traces,
}

impl Search<'_> {
    /// Tries until there is an answer, or a reason not to try again.
    async fn run(&self) -> Result<Answer, Stop> {
        let endpoints = &self.asked.model.endpoints;
        let benched = self.shard.bench.look(endpoints, self.down.now());
        let mut order = benched.order(endpoints).peekable();
        let mut told = Reject::from(match endpoints.is_empty() {
            true => Code::NoHealthyUpstream,
            false => Code::UpstreamUnreachable,
        });
        while let Some(endpoint) = order.next() {
            let Some(answer) = self.ask(endpoint).await? else { continue };
            let status = answer.head.status;
            if !(200..300).contains(&status) && !RELAYED_STATUSES.contains(&status) {
                self.trouble(endpoint, Cause::Status(status));
            }
            if !matches!(answer.head.status, 429 | 503) || order.peek().is_none() {
                return Ok(answer);
            }
            match verdict::refuse(self.shard, self.down, answer, BRIEF).await {
                Stop::Refused(reject) => told = reject,
                gone => return Err(gone),
            }
        }
        Err(told.into())
    }

    /// The endpoint's answer, or `None` if it took no connection.
    async fn ask(&self, endpoint: &Endpoint) -> Result<Option<Answer>, Stop> {
        let &Self { shard, down, call, asked, deadlines, .. } = self;
        let errand = Errand { down, call, asked, endpoint, deadlines };
        self.traces.upstream.set(Some(endpoint.id));
        let mut pooled = shard.pool.take(endpoint);
        loop {
            let reused = pooled.is_some();
            let mut upstream = match pooled.take() {
                Some(upstream) => upstream,
                // On the heap, because it is rare.
                None => match Box::pin(self.open(&errand)).await? {
                    Some(upstream) => upstream,
                    None => return Ok(None),
                },
            };
            match errand.exchange(&mut upstream).await {
                Ok((head, head_bytes)) => {
                    self.count(Attempt::Answered);
                    shard.bench.rise(endpoint);
                    let decoder = BodyDecoder::new(head.framing, &Limits::default());
                    return Ok(Some(Answer { upstream, head, head_bytes, decoder }));
                }
                // The pool's connection was closed under our hands. The next try gets a fresh one.
                Err(Failed::Unseen) if reused => self.count(Attempt::Stale),
                Err(Failed::Unseen) => return Err(self.cut(endpoint, Cause::ClosedUnanswered)),
                Err(Failed::Seen(cause)) => return Err(self.cut(endpoint, cause)),
                Err(Failed::Interrupted(interrupt)) => {
                    if interrupt == Interrupt::Timeout {
                        self.trouble(endpoint, Cause::Unanswered);
                    }
                    self.traces.may_have_run.set(true);
                    return Err(self.interrupted(interrupt));
                }
            }
        }
    }

    fn count(&self, attempt: Attempt) {
        self.traces.attempts.set(self.traces.attempts.get().saturating_add(1));
        if let Some(counter) = self.shard.end.gauges().attempts(attempt) {
            counter.add(1);
        }
    }

    /// What an interrupted wait for the answer's head means to the client.
    fn interrupted(&self, interrupt: Interrupt) -> Stop {
        match interrupt {
            Interrupt::ClientGone => {
                self.count(Attempt::ClientGone);
                Stop::ClientGone(Phase::FirstByte)
            }
            Interrupt::Timeout => {
                self.count(Attempt::Timeout);
                Code::UpstreamTimeout.into()
            }
            Interrupt::Expired => Code::Draining.into(),
        }
    }

    fn trouble(&self, endpoint: &Endpoint, cause: Cause) {
        self.shard.trouble.failed(endpoint, self.asked.model, cause, self.down.now());
    }

    fn cut(&self, endpoint: &Endpoint, cause: Cause) -> Stop {
        self.count(Attempt::Cut);
        self.traces.may_have_run.set(true);
        self.trouble(endpoint, cause);
        Code::UpstreamCut.into()
    }

    /// A fresh connection to the first address of the endpoint that takes one, under TLS where that is asked for.
    async fn open(&self, errand: &Errand<'_>) -> Result<Option<Box<Upstream>>, Stop> {
        let &Self { shard, deadlines, .. } = self;
        let endpoint = errand.endpoint;
        let mut cause = io::Error::new(io::ErrorKind::NotFound, "its name does not resolve");
        for address in endpoint.addresses.iter() {
            let connects = &self.traces.connects;
            if connects.replace(connects.get().saturating_add(1)) >= MAX_CONNECTS {
                return Ok(None);
            }
            errand.arm(deadlines.timers.connect).map_err(|late| self.interrupted(late))?;
            match self.connect(endpoint, *address).await {
                Ok(Ok(upstream)) => {
                    shard.bench.rise(endpoint);
                    return Ok(Some(upstream));
                }
                Ok(Err(error)) => cause = error,
                Err(Interrupt::Timeout) => cause = io::ErrorKind::TimedOut.into(),
                Err(interrupt) => return Err(self.interrupted(interrupt)),
            }
            self.count(Attempt::Unreachable);
        }
        if endpoint.addresses.is_empty() {
            self.count(Attempt::Unreachable);
        }
        shard.trouble.unreachable(endpoint, self.asked.model, &cause, self.down.now());
        if !is_ours(&cause) {
            shard.bench.sit(endpoint, self.down.now());
        }
        errand.arm(deadlines.timers.connect).map_err(|late| self.interrupted(late))?;
        Ok(None)
    }

    /// One connection, under the connection's alarm.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
    ) -> Result<io::Result<Box<Upstream>>, Interrupt> {
        let &Self { shard, down, .. } = self;
        // A connect that has begun may be given up: its socket is ours and is closed with it.
        let (reader, writer, handle) = match down.wait(pin!(connect(shard.driver, address))).await {
            Woke::Done(Ok(parts)) => parts,
            Woke::Done(Err(error)) => return Ok(Err(error)),
            Woke::Alarm => return Err(Interrupt::Timeout),
            Woke::Gone => return Err(Interrupt::ClientGone),
            Woke::Expired => return Err(Interrupt::Expired),
        };
        let Some(host) = &endpoint.tls else {
            return Ok(Ok(Upstream::new(Line::Plain(reader, writer), handle, endpoint)));
        };
        // On the heap: a handshake is large and rare.
        let mut shaking = Box::pin(shard.tls.secure(host, (reader, writer)));
        let secured = guarded(down, &handle, shaking.as_mut()).await?;
        Ok(secured.map(|secured| Upstream::new(Line::Tls(secured), handle, endpoint)))
    }
}
