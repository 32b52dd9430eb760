//! A fault of the configuration: where it is and what to do about it.
//!
//! The text goes to terminals and logs, so it must never hold the value of a secret.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A key of the file.
    Key {
        /// As the operator named it.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// As it is written there; empty where the line could not be understood.
        key: String,
    },
    /// The file itself.
    File(PathBuf),
    /// Nobody set it: the default.
    Default(&'static str),
}

impl Place {
    /// An environment variable.
    pub(crate) fn variable(name: impl Into<String>) -> Self {
        Self::Variable(name.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Key { file, line, key } if key.is_empty() => write!(f, "{}:{line}", file.display()),
            Self::Key { file, line, key } => write!(f, "{}:{line} {key}", file.display()),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Default(name) => write!(f, "{name} (by default)"),
        }
    }
}

/// One thing that is wrong. Shown as `place: message`, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    place: Place,
    message: String,
}

impl Fault {
    /// `message` names what is wrong and the remedy.
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{}: {}", self.place, self.message);
        let words: Vec<_> = line.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
        f.write_str(&words.join("; "))
    }
}
