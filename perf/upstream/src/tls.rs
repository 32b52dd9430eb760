//! TLS for the backend's listener: certificate and key, and one session over one non-blocking socket.
//!
//! Reads and writes try and never wait, as those of a plain socket do, so that the connection's code need not know
//! which of the two it has. The handshake happens on the way, in the first reads.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

/// A certificate with its key.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    /// From the texts of two PEM files: the certificate with those that lead to its authority, and its key.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn of_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key cannot be read: {error}"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| format!("certificate and key do not fit: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// A session that waits for its client.
    pub(crate) fn session(&self) -> io::Result<Session> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        Ok(Session { state: Mutex::new(State { connection, told: false }) })
    }
}

/// One client's session. The lock is never held across a wait.
pub(crate) struct Session {
    state: Mutex<State>,
}

struct State {
    connection: ServerConnection,
    told: bool,
}

/// The socket as rustls wants it.
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// Hands over what waits for the socket; "would block" if it does not take all of it.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Wire(tcp))?;
        }
        Ok(())
    }
}

impl Session {
    /// Appends what has arrived; 0 at the client's goodbye.
    pub(crate) fn try_read(&self, tcp: &TcpStream, buf: &mut Vec<u8>) -> io::Result<usize> {
        let mut state = self.state();
        let mut chunk = [0; 16 << 10];
        loop {
            match state.connection.reader().read(&mut chunk) {
                Ok(count) => {
                    buf.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            state.connection.read_tls(&mut Wire(tcp))?;
            let judged = state.connection.process_new_packets();
            match state.flush(tcp) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => judged.map_err(io::Error::other)?,
            };
        }
    }

    /// Takes some of `bytes`; they may still be on their way to the socket.
    pub(crate) fn try_write(&self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.flush(tcp)?;
        let count = state.connection.writer().write(bytes)?;
        match state.flush(tcp) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    /// Whether the socket has everything; "would block" if not.
    pub(crate) fn try_flush(&self, tcp: &TcpStream) -> io::Result<()> {
        self.state().flush(tcp)
    }

    /// Once, after the handshake: whether it took an earlier session up.
    pub(crate) fn resumed(&self) -> Option<bool> {
        let mut state = self.state();
        let kind = state.connection.handshake_kind()?;
        (!std::mem::replace(&mut state.told, true)).then_some(kind == HandshakeKind::Resumed)
    }

    /// Says goodbye, as far as the socket takes it.
    pub(crate) fn close(&self, tcp: &TcpStream) {
        let mut state = self.state();
        state.connection.send_close_notify();
        // A client that has gone does not mind.
        let _ = state.flush(tcp);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
