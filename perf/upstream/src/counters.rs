//! What the backend itself counts, independent of anything the gateway claims.
//!
//! One lock around plain numbers: they are read together, so they must be changed together. Shared by all
//! connections and by whoever holds the [`crate::Handle`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::journal::Journal;

/// How many request ids are remembered; the oldest go first.
const REMEMBERED_IDS: usize = 10_000;

/// The counts at one moment. Requests are `POST /v1/*`; each ends as completed, aborted or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests whose head and body arrived.
    pub requests: u64,
    /// Requests answered with 200 to the last byte.
    pub completed: u64,
    /// Requests whose client closed before the end of the answer, waiting ones included.
    pub aborted: u64,
    /// Requests refused, or ended by a fault.
    pub failed: u64,
    /// Requests being generated now.
    pub active: u64,
    /// The most requests generated at once.
    pub max_active: u64,
    /// Requests waiting for a free place now.
    pub queued: u64,
    /// The most requests open at once, generated and waiting together.
    pub max_open: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections under TLS that began with a whole handshake.
    pub tls_full: u64,
    /// Connections under TLS that took an earlier session up.
    pub tls_resumed: u64,
    /// Prompt tokens of the requests that were started.
    pub prompt_tokens: u64,
    /// Tokens generated, whether or not anybody received them.
    pub completion_tokens: u64,
}

/// The last `POST /v1/*`, as it was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastRequest {
    /// The head, with its final empty line.
    pub head: Vec<u8>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    Aborted,
    Failed,
}

/// The backend's counts.
#[derive(Debug, Default)]
pub struct Counters {
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    stats: Stats,
    ids: HashMap<String, u32>,
    id_order: VecDeque<String>,
    last: LastRequest,
    work: Work,
    journal: Journal,
}

/// For how long places were taken: the time of every request being generated, added up.
#[derive(Debug, Default)]
struct Work {
    done: Duration,
    /// Until when it is counted; none before the first change.
    until: Option<Instant>,
}

impl Work {
    /// Counts up to `now`, with `active` requests being generated since the last time.
    fn advance(&mut self, active: u64, now: Instant) {
        let since =
            self.until.replace(now).map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        self.done += since * u32::try_from(active).unwrap_or(u32::MAX);
    }
}

impl Counters {
    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.tally().stats.clone()
    }

    /// How many of the last 10,000 requests with an `x-request-id` had this one.
    #[must_use]
    pub fn count_of(&self, request_id: &str) -> u32 {
        self.tally().ids.get(request_id).copied().unwrap_or_default()
    }

    /// The last `POST /v1/*`; empty if there was none.
    #[must_use]
    pub fn last_request(&self) -> LastRequest {
        self.tally().last.clone()
    }

    /// The JSON of `GET /sim/stats`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Page<'a> {
            #[serde(flatten)]
            stats: &'a Stats,
            /// Microseconds, of all requests together, in which one was generated.
            generating_us: u128,
            by_request_id: BTreeMap<&'a str, u32>,
            last_request: Last<'a>,
        }
        #[derive(Serialize)]
        struct Last<'a> {
            head: std::borrow::Cow<'a, str>,
            body: std::borrow::Cow<'a, str>,
        }
        let mut tally = self.tally();
        let active = tally.stats.active;
        tally.work.advance(active, Instant::now());
        let generating_us = tally.work.done.as_micros();
        let by_request_id = tally.ids.iter().map(|(id, count)| (id.as_str(), *count)).collect();
        let last_request = Last {
            head: String::from_utf8_lossy(&tally.last.head),
            body: String::from_utf8_lossy(&tally.last.body),
        };
        serde_json::to_vec(&Page { stats: &tally.stats, generating_us, by_request_id, last_request })
            .unwrap_or_default()
    }

    /// The journal's lines with numbers above `after`.
    pub(crate) fn journal(&self, after: Option<u64>) -> String {
        self.tally().journal.page(after)
    }

    /// The journal keeps at most so many lines from now on.
    pub(crate) fn keep_journal(&self, limit: usize) {
        self.tally().journal.keep(limit);
    }

    /// Forgets everything but what is true now: open connections, active and waiting requests.
    pub fn reset(&self) {
        let mut tally = self.tally();
        let Stats { active, queued, open_connections, .. } = tally.stats;
        let max_open = active + queued;
        let stats =
            Stats { active, max_active: active, queued, max_open, open_connections, ..Stats::default() };
        let work = Work { done: Duration::ZERO, until: Some(Instant::now()) };
        let mut journal = std::mem::take(&mut tally.journal);
        journal.clear();
        *tally = Tally { stats, work, journal, ..Tally::default() };
    }

    /// A request has arrived.
    pub(crate) fn arrived(self: &Arc<Self>, head: &[u8], body: &[u8], request_id: Option<&[u8]>) -> Ticket {
        let mut tally = self.tally();
        tally.stats.requests += 1;
        tally.last.head.clear();
        tally.last.head.extend_from_slice(head);
        tally.last.body.clear();
        tally.last.body.extend_from_slice(body);
        if let Some(id) = request_id {
            tally.remember(&String::from_utf8_lossy(id));
        }
        let line = tally.journal.arrived(request_id);
        Ticket { counters: Arc::clone(self), phase: Phase::Arrived, line, status: 0 }
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn connected(self: &Arc<Self>) -> OpenConnection {
        let mut tally = self.tally();
        tally.stats.connections += 1;
        tally.stats.open_connections += 1;
        OpenConnection { counters: Arc::clone(self) }
    }

    /// A connection's TLS handshake is done.
    pub(crate) fn shook_hands(&self, resumed: bool) {
        let mut tally = self.tally();
        let stats = &mut tally.stats;
        *if resumed { &mut stats.tls_resumed } else { &mut stats.tls_full } += 1;
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn change(&mut self, from: Phase, to: Phase) {
        self.work.advance(self.stats.active, Instant::now());
        let stats = &mut self.stats;
        match from {
            Phase::Waiting => stats.queued -= 1,
            Phase::Generating => stats.active -= 1,
            Phase::Arrived | Phase::Ended => {}
        }
        match to {
            Phase::Waiting => stats.queued += 1,
            Phase::Generating => stats.active += 1,
            Phase::Arrived | Phase::Ended => {}
        }
        stats.max_active = stats.max_active.max(stats.active);
        stats.max_open = stats.max_open.max(stats.active + stats.queued);
    }

    fn remember(&mut self, id: &str) {
        if let Some(count) = self.ids.get_mut(id) {
            *count += 1;
            return;
        }
        if self.id_order.len() >= REMEMBERED_IDS
            && let Some(oldest) = self.id_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id.to_owned(), 1);
        self.id_order.push_back(id.to_owned());
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Arrived,
    Waiting,
    Generating,
    Ended,
}

/// A request between its arrival and its end. Dropped without an end, it counts as aborted.
#[derive(Debug)]
pub(crate) struct Ticket {
    counters: Arc<Counters>,
    phase: Phase,
    /// Its line in the journal.
    line: Option<u64>,
    /// What it was answered with; 0: with nothing.
    status: u16,
}

impl Ticket {
    /// It waits for a free place.
    pub(crate) fn waits(&mut self) {
        self.counters.tally().change(self.phase, Phase::Waiting);
        self.phase = Phase::Waiting;
    }

    /// It is generated.
    pub(crate) fn generates(&mut self, prompt_tokens: u64) {
        let mut tally = self.counters.tally();
        tally.stats.prompt_tokens += prompt_tokens;
        tally.journal.generates(self.line, prompt_tokens);
        tally.change(self.phase, Phase::Generating);
        self.phase = Phase::Generating;
    }

    /// It is answered with this status.
    pub(crate) fn answers(&mut self, status: u16) {
        self.status = status;
    }

    /// It has ended, with so many tokens generated. Only the first end counts.
    pub(crate) fn ends(&mut self, ending: Ending, completion_tokens: u64) {
        self.ends_if(ending, completion_tokens, || true);
    }

    /// It has ended if `last_write` says that the last byte is out. Nobody can read the counts in between, so who
    /// has received an answer finds it counted.
    pub(crate) fn ends_if(
        &mut self,
        ending: Ending,
        completion_tokens: u64,
        last_write: impl FnOnce() -> bool,
    ) {
        let mut tally = self.counters.tally();
        if !last_write() || self.phase == Phase::Ended {
            return;
        }
        tally.change(self.phase, Phase::Ended);
        tally.stats.completion_tokens += completion_tokens;
        tally.journal.ended(self.line, ending, completion_tokens, self.status);
        match ending {
            Ending::Completed => tally.stats.completed += 1,
            Ending::Aborted => tally.stats.aborted += 1,
            Ending::Failed => tally.stats.failed += 1,
        }
        self.phase = Phase::Ended;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ends(Ending::Aborted, 0);
    }
}

/// Counts a connection as open until it is dropped.
pub(crate) struct OpenConnection {
    counters: Arc<Counters>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counters.tally().stats.open_connections -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_once_and_as_aborted_if_nobody_says_otherwise() {
        let counters = Arc::new(Counters::default());
        let mut answered = counters.arrived(b"", b"", None);
        answered.waits();
        assert_eq!(counters.stats().queued, 1);
        let mut waiting = counters.arrived(b"", b"", None);
        waiting.waits();
        assert_eq!((counters.stats().max_open, counters.stats().max_active), (2, 0));
        waiting.ends(Ending::Failed, 0);
        answered.generates(5);
        let mut left = counters.arrived(b"", b"", None);
        left.generates(6);
        let stats = counters.stats();
        assert_eq!((stats.queued, stats.active, stats.max_active, stats.prompt_tokens), (0, 2, 2, 11));
        answered.ends_if(Ending::Completed, 9, || false);
        assert_eq!((counters.stats().active, counters.stats().completed), (2, 0));
        answered.ends_if(Ending::Completed, 9, || true);
        drop((answered, left));
        let stats = counters.stats();
        assert_eq!((stats.active, stats.completed, stats.aborted, stats.completion_tokens), (0, 1, 1, 9));
    }

    #[test]
    fn a_reset_keeps_what_is_true_now() {
        let counters = Arc::new(Counters::default());
        let connection = counters.connected();
        let mut running = counters.arrived(b"head", b"body", Some(b"id"));
        running.generates(5);
        counters.reset();
        let now = Stats { active: 1, max_active: 1, max_open: 1, open_connections: 1, ..Stats::default() };
        assert_eq!((counters.stats(), counters.count_of("id")), (now, 0));
        running.ends(Ending::Failed, 0);
        drop(connection);
        assert_eq!(counters.stats(), Stats { max_active: 1, max_open: 1, failed: 1, ..Stats::default() });
    }

    #[test]
    fn work_is_the_time_of_every_request_being_generated() {
        let (mut work, start) = (Work::default(), Instant::now());
        let second = Duration::from_secs(1);
        work.advance(3, start);
        work.advance(2, start + second);
        work.advance(0, start + 3 * second);
        work.advance(1, start + 4 * second);
        assert_eq!(work.done, 3 * second);
    }

    #[test]
    fn only_the_last_request_ids_are_remembered() {
        let counters = Arc::new(Counters::default());
        for id in 0..REMEMBERED_IDS + 1 {
            counters.arrived(b"head", b"body", Some(id.to_string().as_bytes()));
        }
        counters.arrived(b"head", b"body", Some(b"7"));
        assert_eq!((counters.count_of("0"), counters.count_of("1"), counters.count_of("7")), (0, 1, 2));
        assert_eq!(counters.last_request(), LastRequest { head: b"head".to_vec(), body: b"body".to_vec() });
    }
}
