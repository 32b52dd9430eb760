//! One completion, from its place in the queue to its last byte, with whatever its plan lets go wrong.
//!
//! The connection runs this next to a watch on its client and drops it when the client leaves; what was generated
//! until then stays readable in [`Progress`].

use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

use crate::answer::{self, Events};
use crate::ask::{Ask, Endpoint};
use crate::counters::{Ending, Ticket};
use crate::oddity;
use crate::options::Fault;
use crate::plan::Plan;
use crate::server::Site;
use crate::socket::{Socket, send, send_last};

/// Events of an unpaced stream between two looks at the client.
const EVENTS_PER_TURN: u32 = 16;

/// A completion to generate.
pub(crate) struct Job {
    pub(crate) ask: Ask,
    pub(crate) plan: Plan,
    /// The served name, as a JSON string with its quotes.
    pub(crate) model: String,
    /// The text to answer with, as a JSON string with its quotes, in place of the usual one.
    pub(crate) echo: Option<String>,
    /// Waits in the queue, or is refused.
    pub(crate) reject_over_limit: bool,
    /// Whether the client wants the connection kept.
    pub(crate) keep_alive: bool,
}

/// How far a completion has come. Tokens of a stream are counted as they are written; those of a JSON answer follow
/// from the clock.
#[derive(Default)]
pub(crate) struct Progress {
    streamed: AtomicU64,
    generating: OnceLock<Pace>,
}

impl Progress {
    /// Tokens generated until now.
    pub(crate) fn tokens(&self) -> u64 {
        match self.generating.get() {
            Some(pace) => pace.made_by(Instant::now()),
            None => self.streamed.load(Ordering::Relaxed),
        }
    }

    fn set_streamed(&self, tokens: u32) {
        self.streamed.store(u64::from(tokens), Ordering::Relaxed);
    }
}

/// When tokens are made.
#[derive(Clone, Copy, Debug)]
struct Pace {
    first: Instant,
    interval: Duration,
    tokens: u32,
    /// Nothing to wait for, so no need to ask the clock.
    immediate: bool,
}

impl Pace {
    fn starting_now(plan: &Plan, tokens: u32) -> Self {
        let immediate = plan.latency.is_zero() && plan.interval.is_zero();
        Self { first: Instant::now() + plan.latency, interval: plan.interval, tokens, immediate }
    }

    /// Waits until token number `index` is made.
    async fn reach(&self, index: u32) {
        if !self.immediate {
            let wait = self.interval.saturating_mul(index);
            sleep_until(self.first.checked_add(wait).unwrap_or(self.first)).await;
        }
    }

    fn made_by(&self, now: Instant) -> u64 {
        let Some(since_first) = now.checked_duration_since(self.first) else {
            return 0;
        };
        let intervals = match self.interval.as_nanos() {
            0 => u128::MAX,
            interval => since_first.as_nanos() / interval + 1,
        };
        u64::try_from(intervals).unwrap_or(u64::MAX).min(u64::from(self.tokens))
    }
}

/// What a job needs of its connection.
pub(crate) struct Line<'a> {
    pub(crate) stream: &'a Socket,
    /// Scratch for what is written.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) ticket: &'a mut Ticket,
    pub(crate) progress: &'a Progress,
}

/// Runs a job to its end, and says whether the connection can be used again. The ticket has ended then.
pub(crate) async fn run(site: &Site, mut line: Line<'_>, job: &Job) -> io::Result<bool> {
    if let Some(Fault::Status(status)) = job.plan.fault {
        return refuse(line, job, status).await;
    }
    let _permit = match site.gate.try_enter() {
        Some(permit) => permit,
        None if job.reject_over_limit => return refuse(line, job, 503).await,
        None => {
            line.ticket.waits();
            site.gate.enter().await
        }
    };
    line.ticket.generates(job.ask.prompt_tokens);
    if let Some(Fault::Odd(oddity)) = job.plan.fault {
        return Ok(oddity::play(&mut line, job, oddity).await? && job.keep_alive);
    }
    let finished = match job.plan.fault {
        Some(Fault::DieBeforeHead) => false,
        Some(Fault::StallBeforeHead) => pending().await,
        _ if job.ask.stream => stream_events(&mut line, job).await?,
        _ => send_json(&mut line, job).await?,
    };
    if !finished {
        line.ticket.ends(Ending::Failed, line.progress.tokens());
    }
    Ok(finished && job.keep_alive && job.plan.fault != Some(Fault::CloseIdle))
}

async fn refuse(line: Line<'_>, job: &Job, status: u16) -> io::Result<bool> {
    let mut extra: Vec<(&str, &str)> = answer::plan_headers(&job.plan).collect();
    if status == 429 && extra.is_empty() {
        extra.push(("retry-after", "2"));
    }
    let body = answer::fault_body(status, &job.model);
    line.out.clear();
    line.ticket.answers(status);
    answer::json(line.out, status, &extra, body.as_bytes(), job.keep_alive);
    send_last(line.stream, line.out, line.ticket, Ending::Failed, 0).await?;
    Ok(job.keep_alive)
}

/// After how many tokens the faults strike that strike among them.
fn half_way(tokens: u32) -> u32 {
    tokens.div_ceil(2).min(10)
}

/// Streams an answer, each event in a write of its own. False if it dies on the way.
async fn stream_events(line: &mut Line<'_>, job: &Job) -> io::Result<bool> {
    let Line { stream, out, ticket, progress } = line;
    let Job { ask, plan, .. } = job;
    let (tokens, cut) = if job.echo.is_some() { (1, false) } else { ask.length(plan.tokens) };
    out.clear();
    answer::stream_head(out, plan, job.keep_alive);
    ticket.answers(200);
    send(stream, out).await?;
    if plan.fault == Some(Fault::DieAfterHead) {
        return Ok(false);
    }
    let pace = Pace::starting_now(plan, tokens);
    pace.reach(0).await;
    let mut events = Events::new(ask, plan, &job.model, out);
    if let Some(role) = events.role() {
        send(stream, role).await?;
    }
    if plan.fault == Some(Fault::DieAfterRole) {
        return Ok(false);
    }
    if let Some(announcement) = events.announcement() {
        send(stream, announcement).await?;
    }
    let mut text = String::new();
    for index in 0..tokens {
        if index > 0 {
            pace.reach(index).await;
        }
        if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        if plan.comments {
            send(stream, events.comment()).await?;
        }
        text.clear();
        match &job.echo {
            Some(echo) => text.push_str(echo.get(1..echo.len() - 1).unwrap_or_default()),
            None if plan.stamp => text.push_str(&stamp()),
            None => ask.shape.token(&mut text, index, index + 1 == tokens && !cut),
        }
        let made = index + 1;
        progress.set_streamed(made);
        send(stream, events.token(&text, u64::from(made))).await?;
        if made == half_way(tokens) && strikes_half_way(plan).await {
            return Ok(false);
        }
    }
    if tokens == 0 && strikes_half_way(plan).await {
        return Ok(false);
    }
    send(stream, events.finish(u64::from(tokens), cut)).await?;
    if let Some(usage) = events.usage(u64::from(tokens)) {
        send(stream, usage).await?;
    }
    if plan.fault == Some(Fault::DieBeforeDone) {
        return Ok(false);
    }
    send_last(stream, events.done(), ticket, Ending::Completed, u64::from(tokens)).await?;
    Ok(true)
}

/// Whether the answer dies in its middle. Does not return if it stalls there.
async fn strikes_half_way(plan: &Plan) -> bool {
    match plan.fault {
        Some(Fault::DieAfterTokens) => true,
        Some(Fault::StallAfterTokens) => pending().await,
        _ => false,
    }
}

/// Sends an answer in one write once all of it is made. False if it dies on the way.
async fn send_json(line: &mut Line<'_>, job: &Job) -> io::Result<bool> {
    let Line { stream, out, ticket, progress } = line;
    let Job { ask, plan, .. } = job;
    let (tokens, cut) = if job.echo.is_some() { (1, false) } else { ask.length(plan.tokens) };
    let pace = Pace::starting_now(plan, tokens);
    let _ = progress.generating.set(pace);
    pace.reach(tokens.saturating_sub(1)).await;
    let body = match (&job.echo, ask.endpoint) {
        (_, Endpoint::Embedding) => answer::embedding(ask, &job.model),
        (Some(echo), _) => answer::completion(ask, &job.model, echo, 1, cut),
        (None, _) => answer::completion(ask, &job.model, &text(job, tokens, cut), u64::from(tokens), cut),
    };
    let extra: Vec<(&str, &str)> = answer::plan_headers(plan).collect();
    out.clear();
    answer::json(out, 200, &extra, body.as_bytes(), job.keep_alive);
    ticket.answers(200);
    let head = out.len() - body.len();
    let sent = match plan.fault {
        Some(Fault::DieAfterHead) => head,
        Some(Fault::DieAfterRole) => head + 1,
        Some(Fault::DieAfterTokens | Fault::StallAfterTokens) => head + body.len() / 2,
        Some(Fault::DieBeforeDone) => out.len() - 1,
        _ => out.len(),
    };
    if sent == out.len() {
        send_last(stream, out, ticket, Ending::Completed, u64::from(tokens)).await?;
        return Ok(true);
    }
    send(stream, out.get(..sent).unwrap_or_default()).await?;
    if plan.fault == Some(Fault::StallAfterTokens) {
        pending::<()>().await;
    }
    Ok(false)
}

/// The whole text of a completion, as a JSON string with its quotes.
fn text(Job { plan, ask, .. }: &Job, tokens: u32, cut: bool) -> String {
    let mut text = String::from("\"");
    for index in 0..tokens {
        if !plan.stamp {
            ask.shape.token(&mut text, index, index + 1 == tokens && !cut);
            continue;
        }
        if index > 0 {
            text.push(' ');
        }
        text.push_str(&stamp());
    }
    text.push('"');
    text
}

/// Microseconds since the Unix epoch.
fn stamp() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros().to_string()
}
