//! Who hears of a budget that fills up: the log, the metrics, and a webhook.
//!
//! Which thresholds are crossed is the book's to say, once each; here it is only passed on. It must never make the book
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
    book::{Crossing, THRESHOLDS},
    webhook::Webhook,
};
use crate::{
    clock, random,
    store::{
        Store,
        spend::{scope_id, unit_name},
    },
};

/// Crossings that may wait for their names.
const QUEUE: usize = 1024;

/// Figures of what was told and repaired, for the metrics. Clones of the `Arc` share them.
#[derive(Debug, Default)]
pub(crate) struct BudgetFigures {
    told: [AtomicU64; THRESHOLDS.len()],
    repairs: AtomicU64,
    undelivered: AtomicU64,
}

impl BudgetFigures {
    /// How often each threshold was told, in per cent.
    pub(crate) fn told(&self) -> impl Iterator<Item = (u8, u64)> {
        THRESHOLDS.into_iter().zip(self.told.iter().map(|count| count.load(Ordering::Relaxed)))
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

    fn count(&self, threshold: u8) {
        let place = THRESHOLDS.iter().position(|of| *of == threshold);
        if let Some(count) = place.and_then(|at| self.told.get(at)) {
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

/// Where crossings go. See the module's text.
#[derive(Debug)]
pub(crate) struct Alerts {
    queue: Sender<Crossing>,
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
    threshold: u8,
    /// `null` for a lifetime, like the next.
    begins_at: Option<String>,
    resets_at: Option<String>,
}

impl Alerts {
    /// With the other end, for [`run`].
    pub(crate) fn new(figures: Arc<BudgetFigures>) -> (Self, Receiver<Crossing>) {
        let (queue, taken) = channel(QUEUE);
        (Self { queue, figures }, taken)
    }

    /// The figures.
    pub(super) fn figures(&self) -> &BudgetFigures {
        &self.figures
    }

    /// Passes a crossing on.
    pub(crate) fn tell(&self, crossing: Crossing) {
        self.figures.count(crossing.threshold);
        if let Err(refused) = self.queue.try_send(crossing) {
            log(&Event::of(&refused.into_inner(), None));
        }
    }
}

/// Names, logs and sends what is told, until nobody tells any more.
pub(crate) async fn run(mut told: Receiver<Crossing>, store: Store, webhook: Option<Webhook>) {
    while let Some(crossing) = told.recv().await {
        let scope = crossing.meter.scope;
        // Without the store there is no name.
        let names = store.call(move |db| db.scope_names(&[scope])).await;
        let name = names.ok().and_then(|mut names| names.remove(&scope));
        let event = Event::of(&crossing, name);
        log(&event);
        if let Some(webhook) = &webhook {
            webhook.send(&event);
        }
    }
}

impl Event {
    pub(super) fn of(crossing: &Crossing, name: Option<String>) -> Self {
        let (meter, now) = (crossing.meter, clock::now());
        let is_for_ever = crossing.ends == UnixMs(i64::MAX);
        let time = |at: UnixMs| (!is_for_ever).then(|| clock::text(at));
        Self {
            id: random::fresh_id(now).to_string(),
            kind: "budget.threshold",
            created_at: clock::text(now),
            scope: meter.scope.kind(),
            scope_id: scope_id(meter.scope).to_string(),
            name,
            period: meter.measure.period().as_str(),
            unit: unit_name(meter.measure.unit()).unwrap_or_default(),
            limit: crossing.limit,
            spent: crossing.spent,
            threshold: crossing.threshold,
            begins_at: time(crossing.since),
            resets_at: time(crossing.ends),
        }
    }
}

fn log(event: &Event) {
    let Event { scope, scope_id, name, period, unit, limit, spent, threshold, .. } = event;
    let name = name.as_deref().unwrap_or_default();
    tracing::warn!(target: "obleth_budget", scope, id = scope_id, name, period, unit, limit, spent, threshold,
        "{threshold} % of a budget is used");
}
