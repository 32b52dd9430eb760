//! `serve --demo` and `sim-upstream`: the simulated backend, and what to paste into a terminal.

use std::{fs, net::SocketAddr, path::Path, sync::mpsc::Receiver};

use obleth_admin::Sidecar;
use obleth_upstream::{Handle, Options, Tls};

use crate::{
    VERSION,
    cli::SimArgs,
    exit::{Exit, Failure},
    terminal,
    threads::News,
};

/// What the demo's backend is like: slow enough that one sees a stream being one.
const LATENCY_MS: u64 = 100;
const TOKENS_PER_SECOND: f64 = 40.0;
const TOKENS: u32 = 24;

/// A running demo. Its backend goes with it.
#[derive(Debug)]
pub(crate) struct Demo {
    _backend: Handle,
    model: String,
    secret: String,
}

impl Demo {
    /// Starts the backend on a loopback port and puts tenant, key and model into the store.
    ///
    /// # Errors
    /// No port, or a store that cannot be written.
    pub(crate) fn start(sidecar: &mut Sidecar) -> Result<Self, Failure> {
        let backend = start_backend(Options {
            model: "demo".to_owned(),
            latency_ms: LATENCY_MS,
            tokens_per_second: TOKENS_PER_SECOND,
            tokens: TOKENS,
            ..Options::default()
        })?;
        let seed = sidecar
            .seed_demo(backend.addr)
            .map_err(|error| Failure::new(Exit::IoErr, format!("cannot set the demo up: {error}")))?;
        Ok(Self { _backend: backend, model: seed.model.to_owned(), secret: seed.secret })
    }

    /// The lines to paste.
    pub(crate) fn lines(&self, proxy: SocketAddr) -> String {
        let host = if proxy.ip().is_unspecified() {
            format!("localhost:{}", proxy.port())
        } else {
            proxy.to_string()
        };
        let line = |options: &str, stream: &str| {
            format!(
                "curl {options}http://{host}/v1/chat/completions -H 'Authorization: Bearer {}' \
                 -d '{{\"model\":\"{}\"{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'",
                self.secret, self.model
            )
        };
        format!("\nTry it:\n\n{}\n\n{}\n", line("", ""), line("-N ", ",\"stream\":true"))
    }
}

/// `obleth sim-upstream`: runs until a signal.
///
/// # Errors
/// The port cannot be had.
pub(crate) fn run_backend(args: SimArgs, news: &Receiver<News>) -> Result<(), Failure> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(read_tls(certificate, key)?),
        _ => None,
    };
    let backend = start_backend(Options {
        listen: args.listen,
        tls,
        model: args.model,
        latency_ms: args.latency_ms,
        tokens_per_second: args.tokens_per_second,
        tokens: args.tokens,
        max_concurrency: args.max_concurrency,
        fault: args.fault,
        journal: args.journal,
        api_key: args.api_key,
        ..Options::default()
    })?;
    terminal::say(&format!("obleth {VERSION} simulated backend: {}/v1", backend.url()));
    // Nothing else sends: whatever comes is a signal.
    let _ = news.recv();
    Ok(())
}

fn read_tls(certificate: &Path, key: &Path) -> Result<Tls, Failure> {
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Failure::io(Exit::NoInput, format!("cannot read {}", path.display()), &error))
    };
    Tls::of_pem(&read(certificate)?, &read(key)?).map_err(|fault| Failure::new(Exit::Usage, fault))
}

fn start_backend(options: Options) -> Result<Handle, Failure> {
    let listen = options.listen;
    obleth_upstream::spawn(options).map_err(|error| {
        Failure::io(Exit::Unavailable, format!("cannot start the simulated backend on {listen}"), &error)
    })
}
