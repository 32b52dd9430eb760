//! Ctrl-C and SIGTERM: whoever waits or loops asks here, gives up with an error, and so stops what it started.
//!
//! A measurement must never leave servers behind; a handler that exits at once would.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Somebody wants the program to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(20);

/// Begins to listen.
///
/// # Errors
/// The kernel refuses the handlers.
pub(crate) fn listen() -> Result<()> {
    let came = CAME.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // A second signal ends the program as if nobody listened, in case stopping hangs.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(came)).context("no handler")?;
        signal_hook::flag::register(signal, Arc::clone(came)).context("no handler")?;
    }
    Ok(())
}

/// # Errors
/// [`Interrupted`] once a signal has come.
pub(crate) fn check() -> Result<()> {
    match CAME.get() {
        Some(came) if came.load(Ordering::Relaxed) => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

/// Waits, unless a signal comes.
///
/// # Errors
/// [`Interrupted`].
pub(crate) fn wait(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}
