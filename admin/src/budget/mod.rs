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
//! | `alert.rs`, `webhook.rs` | who hears of a budget that fills up |
//! | `forecast.rs` | how long a budget lasts |

pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod book;
pub(crate) mod forecast;
pub(crate) mod keeper;
pub(crate) mod sums;
pub(crate) mod webhook;
