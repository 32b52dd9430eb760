//! What budgets have used, kept from the usage log, and all that follows from it.
//!
//! Shards spend and the coordinator owns the limits; both forget when they die. What every budget has used is kept here,
//! in the order of the usage log and together with the place in it, so that it is never behind what the log let go. It
//! gives the owner its books at a start, and puts them right when they differ. It never decides about a request.
//!
//! | file | what |
//! |---|---|
//! | `book.rs` | totals by scope, measure and period, folded from records: pure |
//! | `keeper.rs` | the book between the log, the store and the usage ledger |
//! | `sums.rs` | what the usage ledger says of a period, for totals that the log no longer tells |
//! | `audit.rs` | the owner's books against this one |
//! | `judge.rs` | what that proves, and what is put right: pure |
//! | `coverage.rs` | whether the usage log has all that was noted |
//! | `alert.rs`, `webhook.rs` | who hears of a budget that fills up, or refuses |
//! | `forecast.rs` | how long a budget lasts |

pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod book;
mod coverage;
pub(crate) mod forecast;
mod judge;
pub(crate) mod keeper;
pub(crate) mod sums;
pub(crate) mod webhook;

use std::{path::PathBuf, sync::Arc};

use obleth_ledger::Tail;
use tokio::sync::{Notify, mpsc::Receiver};

use crate::{authorities, limits::LimitDesk, pump::Pump, store::Store, usage::Ledger};
use alert::{Alerts, BudgetFigures};
use audit::Audit;
use book::Alert;
use keeper::{Keeper, LimitsInForce};
use webhook::{AlertWebhook, Webhook};

/// The keeper of the book, and what runs beside it.
pub(crate) struct Watch {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) figures: Arc<BudgetFigures>,
    tail: Tail,
    told: Receiver<Alert>,
}

impl Watch {
    /// Over this log, which lies in that folder.
    pub(crate) fn new(log: (Tail, PathBuf), files: (Ledger, Store), limits: &Arc<LimitDesk>) -> Self {
        let figures = Arc::new(BudgetFigures::default());
        let (alerts, told) = Alerts::new(Arc::clone(&figures));
        let (changes, desk) = (limits.changes(), Arc::clone(limits));
        let limits = LimitsInForce { all: Box::new(move || desk.definitions()), changes };
        let tail = log.0.clone();
        let keeper = Arc::new(Keeper::new(log, files, limits, alerts));
        Self { keeper, figures, tail, told }
    }

    /// Completes, compares and tells until the sidecar ends.
    pub(crate) async fn run(self, pump: Arc<Pump>, store: Store, webhook: Option<AlertWebhook>) {
        let Self { keeper, figures, tail, told } = self;
        let webhook = webhook.and_then(|to| Webhook::new(&to, authorities::tls(), &figures));
        let (webhook, delivery) = webhook.unzip();
        let completed = Arc::new(Notify::new());
        let audit =
            Audit { pump, keeper: Arc::clone(&keeper), tail, figures, completed: Arc::clone(&completed) };
        let deliver = async {
            if let Some(delivery) = delivery {
                delivery.run().await;
            }
        };
        tokio::join!(
            keeper.run(|| completed.notify_one()),
            audit.run(),
            audit.hear_of_refusals(),
            alert::run(told, store, webhook),
            deliver,
        );
    }
}
