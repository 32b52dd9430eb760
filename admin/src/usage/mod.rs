//! The usage ledger behind the log: where rows stay, and the reports over them.
//!
//! | file | what |
//! |---|---|
//! | `row.rs` | a row and the one list of columns |
//! | `report.rs` | what is asked of a ledger, and its answer |
//! | `fault.rs` | how a ledger says no |

pub(crate) mod fault;
pub(crate) mod report;
pub(crate) mod row;
