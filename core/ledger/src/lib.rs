//! The usage log: one record per request that a key of ours made, kept so that neither the death of the process nor
//! that of the machine's power loses one.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod desk;
mod encoding;
mod folder;
mod frame;
mod mapping;
mod position;
mod record;
mod recovery;
mod segment;
mod slate;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

pub use folder::{FORMAT, OpenError};
pub use position::{NoPosition, Position};
pub use record::{Admission, Kind, MAX_TEXT, Record, Text, Tokens, UsageSource};
pub use recovery::{Checkpoint, Opened, Options, Recovered, open};
pub use slate::Slate;
pub use tail::{Batch, Figures, Tail};
pub use writer::{LogWriter, Stop};
