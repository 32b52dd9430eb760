//! What goes down to a shard.

use std::sync::Arc;

use obleth_policy::{
    key::{KeyAnswer, KeyDigest},
    snapshot::Snapshot,
};

/// One message to one shard. A shard handles them in order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Requests that start from now on run under this configuration.
    Snapshot(Arc<Snapshot>),
    /// The answer to a look-up that this shard asked for.
    KeyAnswer(KeyDigest, KeyAnswer),
    /// This key was edited: what is cached of it, also that it did not exist, is no longer true.
    KeyChanged(KeyDigest),
    /// Any key may have been edited. Sent in place of many [`Command::KeyChanged`].
    AllKeysChanged,
    /// Show that you are alive: publish this number as the shard's heartbeat.
    Ping(u64),
    /// Finish what is in flight, refuse what comes, then return.
    Drain,
}
