//! What the process says on its standard streams outside the log.
//!
//! Standard output is for what somebody asked for or waits for; standard error for the one line of a failure.
//! A reader that went away must not end the process, so nothing here can fail.

use std::io::{self, Write};

/// One line or more on standard output, at once.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
