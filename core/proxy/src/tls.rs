//! TLS to backends.
//!
//! A read that is dropped half-way makes monoio-rustls panic at the next one, so reads and writes here are never raced
//! or dropped: one after the other, each awaited to its end. To end a wait, the socket beneath is shut down, as
//! everywhere. Bytes that the backend sent can lie decrypted, or not yet decrypted, in memory while the socket is
//! empty; [`Secured::is_quiet`] finds them, so that no request gets what belongs to another.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use monoio::io::AsyncReadRent;
use monoio_rustls::{ClientTlsStream, TlsConnector};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::socket::{Duplex, Reader, Writer, append, write_from};

/// The one protocol that is spoken inside.
const ALPN: &[u8] = b"http/1.1";
/// Backends whose sessions one shard remembers, to take them up again with half a handshake.
const SESSIONS: usize = 256;

/// Whom the certificates of backends must be signed by. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamTls(Arc<ClientConfig>);

/// Why a file is no list of authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaFault {
    /// Not a certificate in it.
    #[error("holds no certificate; give a PEM file with `BEGIN CERTIFICATE` in it")]
    Empty,
    /// The one with this number, from 1, cannot be read or used.
    #[error("certificate number {0} in it cannot be used as an authority")]
    Unusable(usize),
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamTls(…)")
    }
}

impl UpstreamTls {
    /// The authorities that this system trusts. Reads files; says in the log if there are none.
    #[must_use]
    pub fn of_system() -> Self {
        let mut roots = RootCertStore::empty();
        // What the system trusts and rustls cannot read is nobody's fault here, and rare.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            tracing::info!("this system has no certificate authorities; backends cannot be asked under TLS");
        }
        Self::new(roots)
    }

    /// Only the authorities in a PEM file's text.
    ///
    /// # Errors
    /// None in it, or one that cannot be used.
    pub fn of_pem(pem: &[u8]) -> Result<Self, CaFault> {
        let mut roots = RootCertStore::empty();
        for (at, found) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let unusable = CaFault::Unusable(at.saturating_add(1));
            let Ok(certificate) = found else { return Err(unusable) };
            roots.add(certificate).map_err(|_| unusable)?;
        }
        if roots.is_empty() { Err(CaFault::Empty) } else { Ok(Self::new(roots)) }
    }

    fn new(roots: RootCertStore) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        // The provider's own defaults always go together.
        let versioned = builder.with_safe_default_protocol_versions();
        let builder = versioned.unwrap_or_else(|_| ClientConfig::builder());
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self(Arc::new(config))
    }
}

/// Makes TLS connections. One per shard, with the shard's own memory of sessions, so that no lock is shared.
pub(crate) struct Connector(TlsConnector);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(…)")
    }
}

impl Connector {
    pub(crate) fn new(tls: &UpstreamTls) -> Self {
        let mut config = ClientConfig::clone(&tls.0);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self(config.into())
    }

    /// Shakes hands on a fresh connection; `host` is what the certificate must be for. Must be awaited to its end.
    pub(crate) async fn secure(&self, host: &str, (reader, writer): (Reader, Writer)) -> io::Result<Secured> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let dry = Rc::new(Cell::new(false));
        let duplex = Duplex::new(reader, writer, Rc::clone(&dry));
        let stream = self.0.connect(name, duplex).await?;
        Ok(Secured { stream: Box::new(stream), dry })
    }
}

/// A connection under TLS. Dropping it closes it.
pub(crate) struct Secured {
    stream: Box<ClientTlsStream<Duplex>>,
    dry: Rc<Cell<bool>>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured(…)")
    }
}

impl Secured {
    /// As [`Reader::append`]. A close without TLS's own goodbye is an error, not an end.
    pub(crate) async fn append(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        append(&mut *self.stream, buf, room).await
    }

    /// As [`Writer::write_all`].
    pub(crate) async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        write_from(&mut *self.stream, bytes, 0).await
    }

    /// Whether nothing that was received waits in memory, neither content nor a goodbye. Tickets for a later
    /// session are taken in on the way. Leaves the socket alone.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.dry.set(true);
        let read = pin!(self.stream.read(vec![0; 1]));
        let read = read.poll(&mut Context::from_waker(Waker::noop()));
        self.dry.set(false);
        matches!(read, Poll::Ready((Err(error), _)) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
