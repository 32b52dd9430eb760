//! The log: state changes on standard error, as text or as one JSON object per line.
//!
//! What a panic says may hold a piece of a request, so only messages that stand in the source get out.

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log. Called once.
pub(crate) fn start(format: LogFormat, filter: EnvFilter) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && format == LogFormat::Text)
        // A reader of standard error that went away must not end the process.
        .log_internal_errors(false);
    // An error means that a log was started already; the first one stays.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    std::panic::set_hook(Box::new(panicked));
}

fn panicked(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // A literal is ours; a formatted message may quote bytes of a client.
    let message = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    tracing::error!(thread, place, "panicked: {message}");
}
