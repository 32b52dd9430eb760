//! What the process says on its standard streams outside the log.
//!
//! Standard output is for what somebody asked for or waits for; standard error for the one line of a failure.
//! A reader that went away must not end the process, so nothing here can fail.

use std::io::{self, Read, Write};

/// One line or more on standard output, at once.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Everything that `from` gives on standard output, as it comes.
///
/// # Errors
/// Those of `from`. Who stops listening has had enough.
pub(crate) fn copy(mut from: impl Read) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let got = from.read(&mut piece)?;
        let part = piece.get(..got).unwrap_or_default();
        if part.is_empty() || out.write_all(part).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
