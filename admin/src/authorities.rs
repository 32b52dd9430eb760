//! Whom the sidecar believes who a server is: the system's authorities.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// For connections to servers. A system without any authority can still speak plain HTTP.
pub(crate) fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    trusting(roots)
}

/// The same with these authorities.
pub(crate) fn trusting(roots: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    // The provider's own defaults always go together.
    let versioned = builder.with_safe_default_protocol_versions();
    let builder = versioned.unwrap_or_else(|_| ClientConfig::builder());
    builder.with_root_certificates(roots).with_no_client_auth()
}
