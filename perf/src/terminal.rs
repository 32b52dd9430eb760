//! What the program says: standard output for what was asked for, standard error for how far it is.
//!
//! A reader that went away must not end a measurement, so nothing here can fail.

use std::io::{self, Write};

/// Lines on standard output, at once.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line on standard error.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
