//! What backends do wrong, said in the log: by endpoint and kind, with the number of times, and again when it is over.
//!
//! A backend in trouble fails as many requests as come, and a line for each would bury the one that matters. So each
//! core says a thing once a minute at most. It is only touched by failures, and by the successes of an endpoint that
//! has failed: while all goes well, an answer costs one look at an empty map. Nothing is decided by what is kept here.

use std::{cell::RefCell, fmt, io, mem, time::Duration};

use foldhash::HashMap;
use obleth_policy::{
    id::EndpointId,
    snapshot::{Endpoint, Model},
    unit::Instant,
};

/// A thing that was said is not said again for so long.
const QUIET: Duration = Duration::from_secs(60);
/// Things that are remembered of one endpoint. Real ones are in trouble in two or three ways.
const MAX_KINDS: usize = 24;

/// What a backend did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection came about.
    Unreachable,
    /// This process had no descriptor or port left for a connection: not the backend's fault.
    NoSocket,
    /// Not a byte came within the limit for the first byte, or the whole limit.
    Unanswered,
    /// The connection ended before there was an answer.
    ClosedUnanswered,
    /// The head of its answer is not valid HTTP, or too large.
    BadHead(&'static str),
    /// Interim answers and never a final one.
    OnlyInterim,
    /// A status that blames the gateway or itself.
    Status(u16),
    /// The connection ended within the body, or the body in the middle of its JSON.
    Cut,
    /// The framing of the body is not valid HTTP.
    BadBody,
    /// A stream ended without `[DONE]`.
    NoDone,
    /// Nothing more came within the idle limit, or the whole limit.
    Stalled,
    /// An error in the events of an answer with status 200.
    ErrorEvent,
    /// An encoded answer, though none was asked for: it is passed on, and its usage cannot be read.
    Encoded,
    /// Bytes behind the end of the answer. They are thrown away, with the connection.
    Surplus,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "took no connection",
            Self::NoSocket => "was not asked: this process has no descriptor or port left",
            Self::Unanswered => "did not begin to answer in time",
            Self::ClosedUnanswered => "closed the connection without an answer",
            Self::BadHead(what) => return write!(f, "sent a head that is not valid HTTP: {what}"),
            Self::OnlyInterim => "sent interim answers without end",
            Self::Status(status) => return write!(f, "answered with status {status}"),
            Self::Cut => "broke off its answer",
            Self::BadBody => "sent a body that is not valid HTTP",
            Self::NoDone => "ended a stream without [DONE]",
            Self::Stalled => "stopped in the middle of an answer",
            Self::ErrorEvent => "reported a failure inside a stream",
            Self::Encoded => "encoded its answer unasked, so its usage is not counted",
            Self::Surplus => "sent more than its answer",
        })
    }
}

/// See the module's text. Owned by the shard.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    endpoints: RefCell<HashMap<EndpointId, Patient>>,
}

#[derive(Debug, Default)]
struct Patient {
    /// It failed, and has not succeeded since.
    ill: bool,
    /// When it was last said that it had recovered.
    recovery_told: Option<Instant>,
    told: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    cause: Cause,
    at: Instant,
    /// Times since then.
    untold: u64,
}

impl Trouble {
    /// An endpoint did what it should not have.
    pub(crate) fn failed(&self, endpoint: &Endpoint, model: &Model, cause: Cause, now: Instant) {
        let (model, authority) = (&*model.name, &*endpoint.authority);
        match self.note(endpoint.id, cause, now) {
            Some(times) => tracing::warn!(model, endpoint = authority, times, "backend {cause}"),
            None => tracing::debug!(model, endpoint = authority, "backend {cause}"),
        }
    }

    /// No connection to an endpoint came about, because of `error`.
    pub(crate) fn unreachable(&self, endpoint: &Endpoint, model: &Model, error: &io::Error, now: Instant) {
        let cause = if is_ours(error) { Cause::NoSocket } else { Cause::Unreachable };
        let (model, authority) = (&*model.name, &*endpoint.authority);
        match self.note(endpoint.id, cause, now) {
            Some(times) => tracing::warn!(model, endpoint = authority, times, %error, "backend {cause}"),
            None => tracing::debug!(model, endpoint = authority, %error, "backend {cause}"),
        }
    }

    /// The same as [`Self::failed`], for a model's endpoint by its id.
    pub(crate) fn failed_in(&self, model: &Model, id: EndpointId, cause: Cause, now: Instant) {
        if let Some(endpoint) = find(model, id) {
            self.failed(endpoint, model, cause, now);
        }
    }

    /// Whether no endpoint has been in trouble lately, so that a success is not worth a look at the clock.
    pub(crate) fn is_none(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }

    /// An endpoint answered as it should.
    pub(crate) fn succeeded(&self, model: &Model, id: EndpointId, now: Instant) {
        if !self.recovered(id, now) {
            return;
        }
        if let Some(endpoint) = find(model, id) {
            tracing::info!(model = &*model.name, endpoint = &*endpoint.authority, "backend is well again");
        }
    }

    /// How many times it is to be said of, this one included; `None` to say nothing now.
    fn note(&self, id: EndpointId, cause: Cause, now: Instant) -> Option<u64> {
        let mut endpoints = self.endpoints.borrow_mut();
        if !endpoints.contains_key(&id) {
            // Endpoints that were deleted leave here as well.
            endpoints.retain(|_, patient| patient.told.iter().any(|told| now.since(told.at) < QUIET));
        }
        let patient = endpoints.entry(id).or_default();
        patient.ill = true;
        let full = patient.told.len() >= MAX_KINDS;
        match patient.told.iter_mut().find(|told| told.cause == cause) {
            Some(told) if now.since(told.at) < QUIET => {
                told.untold = told.untold.saturating_add(1);
                None
            }
            Some(told) => {
                let times = told.untold.saturating_add(1);
                *told = Told { cause, at: now, untold: 0 };
                Some(times)
            }
            None if full => None,
            None => {
                patient.told.push(Told { cause, at: now, untold: 0 });
                Some(1)
            }
        }
    }

    /// Whether it has just recovered, and that is to be said.
    fn recovered(&self, id: EndpointId, now: Instant) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        let Some(patient) = endpoints.get_mut(&id) else { return false };
        if !mem::take(&mut patient.ill) {
            // In good health for so long that there is nothing to remember.
            if patient.told.iter().all(|told| now.since(told.at) >= QUIET) {
                endpoints.remove(&id);
            }
            return false;
        }
        let quiet = patient.recovery_told.is_some_and(|at| now.since(at) < QUIET);
        if !quiet {
            patient.recovery_told = Some(now);
        }
        !quiet
    }
}

fn find(model: &Model, id: EndpointId) -> Option<&Endpoint> {
    model.endpoints.iter().find(|endpoint| endpoint.id == id)
}

/// Whether a connection did not come about for want of something of our own.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ONE: EndpointId = EndpointId(Uuid::from_u128(1));
    const TWO: EndpointId = EndpointId(Uuid::from_u128(2));

    #[test]
    fn a_thing_is_said_once_a_minute_with_the_number_of_times() {
        let trouble = Trouble::default();
        let start = Instant(0);
        assert_eq!(trouble.note(ONE, Cause::Cut, start), Some(1));
        for _ in 0..99 {
            assert_eq!(trouble.note(ONE, Cause::Cut, start), None);
        }
        assert_eq!(trouble.note(ONE, Cause::Stalled, start), Some(1), "another thing");
        assert_eq!(trouble.note(TWO, Cause::Cut, start), Some(1), "another endpoint");
        assert_eq!(trouble.note(ONE, Cause::Cut, start.plus(QUIET)), Some(100));
        assert_eq!(trouble.note(ONE, Cause::Cut, start.plus(QUIET)), None);
    }

    #[test]
    fn a_recovery_is_said_once_and_flapping_does_not_repeat_it() {
        let trouble = Trouble::default();
        let start = Instant(0);
        assert!(!trouble.recovered(ONE, start), "it was never ill");
        trouble.note(ONE, Cause::Cut, start);
        assert!(trouble.recovered(ONE, start));
        assert!(!trouble.recovered(ONE, start));
        trouble.note(ONE, Cause::Cut, start);
        assert!(!trouble.recovered(ONE, start), "said a moment ago");
    }

    #[test]
    fn who_is_well_again_is_forgotten() {
        let trouble = Trouble::default();
        trouble.note(ONE, Cause::Cut, Instant(0));
        trouble.recovered(ONE, Instant(0));
        trouble.recovered(ONE, Instant(0).plus(QUIET));
        assert!(trouble.endpoints.borrow().is_empty());
        trouble.note(ONE, Cause::Cut, Instant(0));
        trouble.note(TWO, Cause::Cut, Instant(0).plus(QUIET));
        assert_eq!(trouble.endpoints.borrow().len(), 1, "nobody asks for a deleted one");
    }
}
