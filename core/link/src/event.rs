//! What comes up to the sidecar.

use std::sync::Arc;

use obleth_policy::{key::KeyDigest, snapshot::Snapshot};

/// One message from one shard.
#[derive(Clone, Debug)]
pub enum Event {
    /// The shard started, or started again: it needs the current snapshot before it serves.
    Started,
    /// Ask the stores for this key. At most one per digest is under way from a shard.
    KeyLookup(KeyDigest),
    /// No request of the shard runs under this snapshot any more: what the sidecar built, it frees.
    Retired(Arc<Snapshot>),
}
