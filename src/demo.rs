//! `serve --demo` and `sim-upstream`: the simulated backend, and what to paste into a terminal.

use std::{net::SocketAddr, sync::mpsc::Receiver};

use obleth_admin::Sidecar;
use obleth_upstream::{Handle, Options};

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
    let backend = start_backend(Options {
        listen: args.listen,
        model: args.model,
        latency_ms: args.latency_ms,
        tokens_per_second: args.tokens_per_second,
        tokens: args.tokens,
        max_concurrency: args.max_concurrency,
        fault: args.fault,
        api_key: args.api_key,
        ..Options::default()
    })?;
    terminal::say(&format!("obleth {VERSION} simulated backend: http://{}/v1", backend.addr));
    // Nothing else sends: whatever comes is a signal.
    let _ = news.recv();
    Ok(())
}

fn start_backend(options: Options) -> Result<Handle, Failure> {
    let listen = options.listen;
    obleth_upstream::spawn(options).map_err(|error| {
        Failure::io(Exit::Unavailable, format!("cannot start the simulated backend on {listen}"), &error)
    })
}
