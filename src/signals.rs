//! Signals of the process, as news for the main thread.
//!
//! SIGTERM and SIGINT drain; a second one does not wait. SIGPIPE is ignored by the standard library's start.

use std::{io, sync::mpsc::Sender, thread};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::threads::News;

/// Listens from now on, on a thread of its own that sleeps until a signal comes.
///
/// # Errors
/// The kernel's.
pub(crate) fn listen(news: Sender<News>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        for signal in signals.forever() {
            if news.send(News::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("obleth-signals".to_owned()).spawn(wait).map(drop)
}
