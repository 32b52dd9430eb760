//! How the process ends when it cannot run: one line for a person, one code for a script.
//!
//! The codes are those of BSD's `sysexits.h`, so that service managers can tell a mistake from bad luck. No
//! line holds a secret.
//!
//! | code | here |
//! |---|---|
//! | 64 | the command line or the configuration is wrong |
//! | 66 | the configuration file cannot be read |
//! | 69 | a port is in use, an address is not this machine's, or no admin API answers there |
//! | 70 | a fault of ours |
//! | 71 | the kernel refuses a thread, a descriptor or a driver |
//! | 73 | the data folder or a file in it cannot be created |
//! | 74 | reading or writing failed: disk full, a store that is unreadable or damaged |
//! | 75 | another process uses the data folder or the store, or the gateway cannot answer now; try again later |
//! | 77 | a permission or the admin token is missing or not the right one, or a permission is too wide |
//! | 78 | what is stored does not fit: another master key, a newer schema, a file of another kind |
//! | 130, 143 | a second SIGINT or SIGTERM did not wait for the drain |

use std::{fmt, io, process::ExitCode};

/// Why the process ends. See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 64.
    Usage = 64,
    /// 66.
    NoInput = 66,
    /// 69.
    Unavailable = 69,
    /// 70.
    Software = 70,
    /// 71.
    OsErr = 71,
    /// 73.
    CantCreate = 73,
    /// 74.
    IoErr = 74,
    /// 75.
    TempFail = 75,
    /// 77.
    NoPerm = 77,
    /// 78.
    Config = 78,
}

impl Exit {
    /// This code, unless the kernel's reason has one of its own.
    pub(crate) fn unless(self, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NoPerm,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem => Self::IoErr,
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Self::Unavailable,
            _ => self,
        }
    }
}

/// The end of a start that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    /// `line` names what failed and the remedy.
    pub(crate) fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    /// A failed system call; `exit` holds unless the kernel's reason has a code of its own.
    pub(crate) fn io(exit: Exit, what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(exit.unless(error), format!("{what}: {error}"))
    }

    /// What the shell sees.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    /// One line, whatever the cause's text looks like.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.line.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
        f.write_str(&words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_the_kernels_reason_chooses_its_code() {
        let failure = Failure::new(Exit::Software, "one\n  two\n");
        assert_eq!(failure.to_string(), "one; two");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io(Exit::CantCreate, "x", &full).exit, Exit::IoErr);
        let other = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::io(Exit::CantCreate, "x", &other).exit, Exit::CantCreate);
    }
}
