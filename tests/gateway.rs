//! The real process against the simulated backend: what a client, an operator and a backend see of it.
//!
//! Every test starts the built binary with a data folder and ports of its own, and talks to it over plain
//! sockets, because what is tested is bytes and their timing. Nothing here may reach into the process, wait for
//! a fixed time in place of a condition, or leave a process behind.

#[cfg(test)]
mod gateway {
    mod authority;
    mod clock;
    mod http;
    mod ledger_books;
    mod parties;
    mod process;
    mod refusal;
    mod world;

    mod addresses;
    mod back_pressure;
    mod body;
    mod cadence;
    mod cancels;
    mod crowds;
    mod disconnects;
    mod endpoints;
    mod endurance;
    mod faults;
    mod fidelity;
    mod figures;
    mod forbidden;
    mod gates;
    mod head;
    mod headers;
    mod large_bodies;
    mod ledger;
    mod ledger_kill;
    mod ledger_troubles;
    mod life;
    mod limits;
    mod limits_edits;
    mod limits_kill;
    mod limits_races;
    mod live_edits;
    mod matrix;
    mod misbehaviour;
    mod queue;
    mod queue_policies;
    mod refused_uploads;
    mod rotation;
    mod secrets;
    mod spend_book;
    mod stale;
    mod store_outage;
    mod supervision;
    mod tls;
    mod tls_faults;
    mod usage_command;
    mod usage_matrix;
    mod verdicts;
}
