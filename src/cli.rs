//! The command line.
//!
//! Values of settings stay text here: the configuration judges them, so that a flag, a variable and a key of
//! the file are held to the same rules and faults are told in the same words.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::Flags,
    exit::{Exit, Failure},
    terminal,
};

/// A multi-tenant AI gateway for OpenAI-compatible backends.
#[derive(Debug, Parser)]
#[command(name = "obleth", disable_version_flag = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to do; without one, run the gateway.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// As `serve`.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// As `check`.
    #[arg(long)]
    pub(crate) validate: bool,
    /// Print version and commit.
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway
    Serve(ServeArgs),
    /// Read the configuration and tell every fault in it
    Check(CheckArgs),
    /// Report what was used, by whom and of what, from a running gateway
    Usage(UsageArgs),
    /// Run a simulated OpenAI-compatible backend
    SimUpstream(SimArgs),
}

/// Arguments of `serve`.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Where settings come from, and their flags.
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Where the store, the admin token and the master key live [default: ./obleth-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Bring a simulated backend, a model `demo` and a fresh key; without --data-dir, leave nothing behind
    #[arg(long)]
    pub(crate) demo: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Where settings come from, and their flags.
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Print the table of all settings instead
    #[arg(long = "settings")]
    pub(crate) list: bool,
}

/// Settings on the command line.
#[derive(Debug, Default, Args)]
pub(crate) struct SettingArgs {
    /// TOML file with settings [default: OBLETH_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Data-plane shards [default: the allowed processors]
    #[arg(long, value_name = "N")]
    pub(crate) cores: Option<String>,
    /// Data plane [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) proxy_listen: Option<String>,
    /// Admin API [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<String>,
    /// Metrics and probes [default: 127.0.0.1:9091]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<String>,
}

impl SettingArgs {
    /// The settings among them.
    pub(crate) fn flags(&self) -> Flags {
        Flags::default()
            .with("--cores", "CORES", self.cores.clone())
            .with("--proxy-listen", "PROXY_LISTEN", self.proxy_listen.clone())
            .with("--admin-listen", "ADMIN_LISTEN", self.admin_listen.clone())
            .with("--metrics-listen", "METRICS_LISTEN", self.metrics_listen.clone())
    }
}

/// Which running gateway is asked.
#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    /// Its admin API [default: OBLETH_ADMIN_LISTEN on this machine]
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// Where its admin token lies, unless OBLETH_ADMIN_TOKEN is set [default: ./obleth-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// TOML file with settings [default: OBLETH_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Arguments of `usage`. What their values may be, the gateway knows.
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// First moment that counts: a time such as 2026-11-01T12:00:00Z, or a day [default: 30 days before the end]
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// First moment that no longer counts [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// What to add up by: tenant, key, model and others, separated by commas [default: tenant]
    #[arg(long, value_name = "WORDS")]
    pub(crate) by: Option<String>,
    /// Time zone of days, as in Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(crate) tz: Option<String>,
    /// As CSV: the sums with --by, else every request
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// The gateway's own answer
    #[arg(long)]
    pub(crate) json: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Arguments of `sim-upstream`.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub(crate) listen: SocketAddr,
    /// Served model names, separated by commas; `*` serves every name
    #[arg(long, value_name = "NAMES", default_value = "*")]
    pub(crate) model: String,
    /// Time to the first token
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) latency_ms: u64,
    /// Pace after the first token; 0 is as fast as possible
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub(crate) tokens_per_second: f64,
    /// Tokens of a completion, unless the request allows fewer
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) tokens: u32,
    /// Completions generated at once; more wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrency: Option<u32>,
    /// What goes wrong with every completion, as in `die-after-head` or `status-503`
    #[arg(long, value_name = "NAME")]
    pub(crate) fault: Option<obleth_upstream::Fault>,
    /// Requests that /sim/journal remembers, one line each; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) journal: usize,
    /// The only credential that is accepted
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// PEM file with the certificate to listen under TLS with
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// A pace that time can be divided by.
fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.0..=1e9).contains(rate))
        .ok_or_else(|| "write tokens per second, 0 to 1e9".to_owned())
}

/// The parsed command line, or `None` when help was asked for and given.
///
/// # Errors
/// What cannot be understood, as one line.
pub(crate) fn parse() -> Result<Option<Cli>, Failure> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if !error.use_stderr() => {
            terminal::say(error.to_string().trim_end());
            Ok(None)
        }
        Err(error) => {
            let text = error.to_string();
            let said: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:"))
                .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
                .collect();
            let line = said.join("; ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            Err(Failure::new(Exit::Usage, format!("{line}; see obleth --help")))
        }
    }
}
