//! How ClickHouse says no, sorted by what an operator has to do about it.
//!
//! The display form is what callers of the API may see. What the server said goes to the log only, shortened: it names
//! users, tables and hosts, and never holds a password.

/// Most of what a server says that goes into a line of the log, in bytes.
const MOST_WORDS: usize = 400;
/// The server's numbers of errors that are about who we are or what we may.
const ACCESS: [&str; 6] = ["192.", "193.", "194.", "291.", "497.", "516."];
/// Those that are about time: too slow, cancelled.
const TIME: [&str; 2] = ["159.", "394."];

/// The class of a failure, and the words of whoever failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}")]
pub(crate) struct ClickHouseFault {
    pub(crate) class: Class,
    /// For the log.
    pub(crate) words: String,
}

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Class {
    /// No connection, or it broke.
    #[error("unreachable")]
    Unreachable,
    /// No answer in time.
    #[error("too_slow")]
    TooSlow,
    /// User, password or rights.
    #[error("access_denied")]
    AccessDenied,
    /// It answered with an error.
    #[error("refused")]
    Refused,
    /// The tables are not ours, or those of a newer program.
    #[error("other_schema")]
    OtherSchema,
    /// The file that says how far the ledger has come could not be written.
    #[error("no_checkpoint")]
    NoCheckpoint,
}

impl ClickHouseFault {
    pub(super) fn new(class: Class, words: impl Into<String>) -> Self {
        Self { class, words: shortened(&words.into()) }
    }

    /// No answer within the limit that we set.
    pub(super) fn late() -> Self {
        Self::new(Class::TooSlow, "no answer in time")
    }
}

impl From<clickhouse::error::Error> for ClickHouseFault {
    fn from(error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        match &error {
            Error::Network(cause) => Self::new(Class::Unreachable, chain(cause.as_ref())),
            Error::TimedOut => Self::late(),
            Error::BadResponse(words) => Self::new(class_of(words), words.as_str()),
            _ => Self::new(Class::Refused, error.to_string()),
        }
    }
}

/// The server begins with `Code: N.`
fn class_of(words: &str) -> Class {
    let number = words.find("Code: ").and_then(|at| words.get(at + 6..)).unwrap_or_default();
    let is = |list: &[&str]| list.iter().any(|known| number.starts_with(known));
    if is(&ACCESS) {
        Class::AccessDenied
    } else if is(&TIME) {
        Class::TooSlow
    } else {
        Class::Refused
    }
}

/// An error with its causes: the outermost one says little.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// One line of bounded length.
fn shortened(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    line.get(..line.floor_char_boundary(MOST_WORDS)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_the_servers_number() {
        let class =
            |words: &str| ClickHouseFault::from(clickhouse::error::Error::BadResponse(words.into())).class;
        assert_eq!(class("Code: 516. DB::Exception: obleth: Authentication failed"), Class::AccessDenied);
        assert_eq!(class("Code: 159. DB::Exception: Timeout exceeded"), Class::TooSlow);
        assert_eq!(class("Code: 60. DB::Exception: Unknown table"), Class::Refused);
        assert_eq!(class("502 Bad Gateway"), Class::Refused);
    }

    #[test]
    fn words_are_one_line_of_bounded_length() {
        let fault = ClickHouseFault::new(Class::Refused, format!("a\n b {}", "ä".repeat(MOST_WORDS)));
        assert!(fault.words.starts_with("a b ä") && fault.words.len() <= MOST_WORDS);
        assert_eq!(fault.to_string(), "refused");
    }
}
