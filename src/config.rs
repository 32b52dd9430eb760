//! The configuration: flag, then environment, then TOML file, then default.
//!
//! The only reader of environment and file. It holds what must be known before the store can be read; tenants,
//! keys and models live in the store. Reading never stops at the first fault: an operator sees all of them at
//! once, each with its place and a remedy. It must never show the value of a secret, bind a port or write.

mod cross;
mod fault;
mod file;
mod parse;
mod source;
mod suggest;
mod table;

use std::path::Path;

use tracing_subscriber::EnvFilter;

pub(crate) use fault::{Fault, Place};
pub(crate) use parse::{LogFormat, admin_token};
pub(crate) use source::{Environment, Flags};
pub(crate) use table::{Config, markdown};

use source::Sources;

/// What `RUST_LOG` is where it is not set. The targets of all crates begin with `obleth`.
const DEFAULT_LOG_FILTER: &str = "obleth=info";

/// A configuration that can be run, with what the operator should still be told.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Every setting.
    pub(crate) config: Config,
    /// What the log shows, `RUST_LOG`.
    pub(crate) log_filter: EnvFilter,
    /// Use epoll also where io_uring is to be had, `MONOIO_FORCE_LEGACY_DRIVER`.
    pub(crate) force_epoll: bool,
    /// Names that look like ours and are not.
    pub(crate) warnings: Vec<Fault>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The file that was named cannot be read.
    File(Fault),
    /// Everything that is wrong, in the order of the table.
    Faults(Vec<Fault>),
}

/// Reads every source and judges all of it. `file` is what `--config` says; without it `OBLETH_CONFIG` counts.
///
/// # Errors
/// All faults of all sources; only an unreadable file ends the reading early.
pub(crate) fn load(file: Option<&Path>, flags: Flags, environment: Environment) -> Result<Loaded, LoadError> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let text = source::config_file(file, &environment, &mut faults)?;
    let table = match &text {
        Some((path, text)) => file::entries(path, text, &mut faults),
        None => Vec::new(),
    };
    let log_filter = log_filter(&environment, &mut faults);
    let force_epoll = force_epoll(&environment, &mut faults);
    let sources = Sources::new(flags, environment, table, &mut faults, &mut warnings);
    let config = table::read(&sources, &mut faults);
    if let Some(config) = &config {
        cross::check(config, &sources, &mut faults);
    }
    match (config, log_filter, force_epoll) {
        (Some(config), Some(log_filter), Some(force_epoll)) if faults.is_empty() => {
            Ok(Loaded { config, log_filter, force_epoll, warnings })
        }
        _ => Err(LoadError::Faults(faults)),
    }
}

fn log_filter(environment: &Environment, faults: &mut Vec<Fault>) -> Option<EnvFilter> {
    let text = environment.get("RUST_LOG").filter(|text| !text.is_empty()).unwrap_or(DEFAULT_LOG_FILTER);
    EnvFilter::try_new(text)
        .inspect_err(|error| {
            let message = format!("{error}; write it like `{DEFAULT_LOG_FILTER}` or `obleth_proxy=debug`");
            faults.push(Fault::new(Place::variable("RUST_LOG"), message));
        })
        .ok()
}

fn force_epoll(environment: &Environment, faults: &mut Vec<Fault>) -> Option<bool> {
    const NAME: &str = "MONOIO_FORCE_LEGACY_DRIVER";
    match environment.get(NAME).filter(|text| !text.is_empty()) {
        None => Some(false),
        Some(text) => parse::boolean(text)
            .inspect_err(|message| faults.push(Fault::new(Place::variable(NAME), message.clone())))
            .ok(),
    }
}

#[cfg(test)]
mod tests;
