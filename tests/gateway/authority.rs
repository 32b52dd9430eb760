//! A certificate authority of a test's own, and backends with certificates from it.
//!
//! It exists so that tests meet real handshakes: real chains, names and dates, and servers that break the rules below
//! HTTP on purpose. Its keys live as long as the test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
};

use obleth_upstream::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::process::Setup;

/// See the module's text.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

/// A certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        // Two of one name would be one authority with a wrong signature.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    /// The file that a gateway is told to trust.
    pub(crate) fn file(&self) -> PathBuf {
        let path = self.folder.path().join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path
    }

    /// A gateway that trusts this authority and no other.
    pub(crate) fn setup(&self) -> Setup {
        Setup::new().env("OBLETH_UPSTREAM_CA_FILE", self.file().display())
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str], is_expired: bool) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if is_expired {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// What the simulated backend listens under on loopback.
    pub(crate) fn tls(&self) -> Tls {
        self.issue(&["127.0.0.1", "localhost"], false).tls()
    }

    /// Serves each connection under TLS on a thread of its own until the test process ends.
    pub(crate) fn serve(&self, serve: impl Fn(Secured) + Clone + Send + 'static) -> SocketAddr {
        let issued = self.issue(&["127.0.0.1"], false);
        let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let serve = serve.clone();
                std::thread::spawn(move || serve(Secured(StreamOwned::new(session, tcp))));
            }
        });
        addr
    }
}

impl Issued {
    pub(crate) fn tls(&self) -> Tls {
        Tls::of_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// One connection of [`Authority::serve`]. Dropped without a goodbye, it is closed without one.
pub(crate) struct Secured(StreamOwned<ServerConnection, TcpStream>);

impl Secured {
    /// Reads a request with a JSON body; `None` at the end of the connection.
    pub(crate) fn request(&mut self) -> Option<Vec<u8>> {
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        while !request.ends_with(b"}") {
            match self.0.read(&mut chunk) {
                Ok(got @ 1..) => request.extend_from_slice(&chunk[..got]),
                _ => return None,
            }
        }
        Some(request)
    }

    /// Sends bytes, as one record if they fit into one. False if the client has gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).is_ok()
    }

    /// Says TLS's goodbye; the connection stays open.
    pub(crate) fn goodbye(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }

    /// Waits until the client closes.
    pub(crate) fn linger(&mut self) {
        let mut chunk = [0; 4096];
        while matches!(self.0.sock.read(&mut chunk), Ok(1..)) {}
    }
}
