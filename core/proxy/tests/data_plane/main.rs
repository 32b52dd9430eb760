//! The data plane from outside: one shard on a thread, its sidecar played by the test, real sockets on both sides.

mod backend;
mod limits;
mod rig;
mod shard;
