//! The sidecar: everything that may wait for a remote, on one tokio thread.
