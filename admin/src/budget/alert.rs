//! Who hears of a budget that fills up, or refuses a request: the log, the metrics, and a webhook.
//!
//! What is to be told is the book's to say, once each; here it is only passed on. It must never make the book
//! wait: what finds no room is logged without a name, and counted all the same.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use obleth_policy::{limit::Meter, unit::UnixMs};
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    book::{Alert, Cause, THRESHOLDS},
    webhook::Webhook,
};
use crate::{
    clock, random,
    store::{
        Store,
        spend::{scope_id, unit_name},
    },
};

/// Alerts that may wait for their names.
const QUEUE: usize = 1024;

/// Figures of what was told and repaired, for the metrics. Clones of the `Arc` share them.
#[derive(Debug, Default)]
pub(crate) struct BudgetFigures {
    thresholds: [AtomicU64; THRESHOLDS.len()],
    refusals: AtomicU64,
    repairs: AtomicU64,
    undelivered: AtomicU64,
}

impl BudgetFigures {
    /// How often each threshold was told, in per cent.
    pub(crate) fn thresholds(&self) -> impl Iterator<Item = (u8, u64)> {
        THRESHOLDS.into_iter().zip(self.thresholds.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// How often it was told that a budget has refused a request.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Totals that were put right.
    pub(crate) fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }

    pub(super) fn note_repair(&self) {
        self.repairs.fetch_add(1, Ordering::Relaxed);
    }

    /// Events that the webhook did not take.
    pub(crate) fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    pub(super) fn note_undelivered(&self) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, cause: Cause) {
        let count = match cause {
            Cause::Refusal => Some(&self.refusals),
            Cause::Threshold(threshold) => {
                THRESHOLDS.iter().position(|of| *of == threshold).and_then(|at| self.thresholds.get(at))
            }
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A budget in the log's words.
pub(super) struct Said(pub(super) Meter);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Meter { scope, measure } = self.0;
        let unit = unit_name(measure.unit()).unwrap_or_default();
        write!(f, "{} {} {} {unit}", scope.kind(), scope_id(scope), measure.period().as_str())
    }
}

/// Where alerts go. See the module's text.
#[derive(Debug)]
pub(crate) struct Alerts {
    queue: Sender<Alert>,
    figures: Arc<BudgetFigures>,
}

/// What the webhook is told, and the log in fewer words.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    pub(super) id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    created_at: String,
    scope: &'static str,
    scope_id: String,
    /// `null` where nobody knows any more.
    name: Option<String>,
    period: &'static str,
    unit: &'static str,
    limit: u64,
    spent: u64,
    /// In per cent; `null` for a refusal.
    threshold: Option<u8>,
    /// `null` for a lifetime, like the next.
    begins_at: Option<String>,
    resets_at: Option<String>,
}

impl Alerts {
    /// With the other end, for [`run`].
    pub(crate) fn new(figures: Arc<BudgetFigures>) -> (Self, Receiver<Alert>) {
        let (queue, taken) = channel(QUEUE);
        (Self { queue, figures }, taken)
    }

    /// The figures.
    pub(super) fn figures(&self) -> &BudgetFigures {
        &self.figures
    }

    /// Passes an alert on.
    pub(crate) fn tell(&self, alert: Alert) {
        self.figures.count(alert.cause);
        if let Err(refused) = self.queue.try_send(alert) {
            log(&Event::of(&refused.into_inner(), None));
        }
    }
}

/// Names, logs and sends what is told, until nobody tells any more.
pub(crate) async fn run(mut told: Receiver<Alert>, store: Store, webhook: Option<Webhook>) {
    while let Some(alert) = told.recv().await {
        let scope = alert.meter.scope;
        // Without the store there is no name.
        let names = store.call(move |db| db.scope_names(&[scope])).await;
        let name = names.ok().and_then(|mut names| names.remove(&scope));
        let event = Event::of(&alert, name);
        log(&event);
        if let Some(webhook) = &webhook {
            webhook.send(&event);
        }
    }
}

impl Event {
    pub(super) fn of(alert: &Alert, name: Option<String>) -> Self {
        let (meter, now) = (alert.meter, clock::now());
        let is_for_ever = alert.ends == UnixMs(i64::MAX);
        let (kind, threshold) = match alert.cause {
            Cause::Threshold(threshold) => ("budget.threshold", Some(threshold)),
            Cause::Refusal => ("budget.refused", None),
        };
        let time = |at: UnixMs| (!is_for_ever).then(|| clock::text(at));
        Self {
            id: random::fresh_id(now).to_string(),
            kind,
            created_at: clock::text(now),
            scope: meter.scope.kind(),
            scope_id: scope_id(meter.scope).to_string(),
            name,
            period: meter.measure.period().as_str(),
            unit: unit_name(meter.measure.unit()).unwrap_or_default(),
            limit: alert.limit,
            spent: alert.spent,
            threshold,
            begins_at: time(alert.since),
            resets_at: time(alert.ends),
        }
    }
}

fn log(event: &Event) {
    let Event { scope, scope_id, name, period, unit, limit, spent, threshold, .. } = event;
    let name = name.as_deref().unwrap_or_default();
    match threshold {
        Some(threshold) => {
            tracing::warn!(target: "obleth_budget", scope, id = scope_id, name, period, unit, limit, spent, threshold,
                "{threshold} % of a budget is used");
        }
        None => {
            tracing::warn!(target: "obleth_budget", scope, id = scope_id, name, period, unit, limit, spent,
                "a budget has refused a request");
        }
    }
}
