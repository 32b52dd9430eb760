//! Pure decisions of the gateway and the nouns they are made of.
//!
//! Everything here is a function of its arguments: time and randomness come in as values, money, cost and
//! credits are integers. It must never do I/O, read a clock, start a thread, or iterate a hash map (its order
//! would leak into decisions).
//!
//! | file | what |
//! |---|---|
//! | [`id`], [`unit`] | identities and measures |
//! | [`key`] | what a key and its tenant may do, and who says no |
//! | [`network`] | where a request comes from, and whether it may |
//! | [`snapshot`] | the configuration that requests run under, whole and immutable |
//! | [`price`] | what it costs in money |
//! | [`cost`] | what a request costs in the scheduler's eyes |
//! | [`fairness`] | who is next: the tree of virtual times |
//! | [`admission`] | a core's decision to start a request: ticket in, slot out |
//! | [`limit`] | what keys, tenants and groups may use: quotas and budgets, cut into credits |
//! | [`protocol`] | what the cores and the coordinator say to each other |
//! | [`coordinator`] | who gets the next free slot, over all cores |
//! | [`route`] | the endpoints of the data plane |
//! | [`outcome`] | every way a request ends: status, code, label |

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod admission;
pub mod coordinator;
pub mod cost;
pub mod fairness;
pub mod id;
pub mod key;
pub mod limit;
mod mean;
pub mod network;
pub mod outcome;
pub mod price;
pub mod protocol;
pub mod route;
pub mod snapshot;
pub mod unit;
