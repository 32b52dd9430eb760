//! The TOML file, taken apart into keys with their lines.
//!
//! The file is flat: every key is a setting's name without `OBLETH_`, in lower case. Values are taken as text,
//! so that a setting means the same here and in the environment. What a key means is not decided here.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{Fault, Place};

/// One key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As written.
    pub(crate) key: String,
    /// As text.
    pub(crate) value: String,
    /// Its line.
    pub(crate) place: Place,
}

/// The keys of `text`, in the order of their lines. What cannot be understood becomes a fault.
pub(crate) fn entries(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let place = |at: usize, key: &str| {
        let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        Place::Key { file: path.to_owned(), line, key: key.to_owned() }
    };
    if !errors.is_empty() {
        // What was recovered from a file that is not TOML would only be guessed at.
        faults.extend(
            errors.iter().map(|e| Fault::new(place(e.span().map_or(0, |span| span.start), ""), e.message())),
        );
        return Vec::new();
    }
    let mut found: Vec<_> = table.get_ref().iter().collect();
    found.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::with_capacity(found.len());
    for (key, value) in found {
        let name = key.get_ref().as_ref();
        let place = place(key.span().start, name);
        match as_text(value.get_ref()) {
            Some(value) => entries.push(Entry { key: name.to_owned(), value, place }),
            None => faults.push(Fault::new(
                place,
                format!(
                    "is {} here; write a string, a whole number or a boolean (there are no sections)",
                    kind(value.get_ref())
                ),
            )),
        }
    }
    entries
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Table(_) => "a section",
        DeValue::Array(_) => "a list",
        DeValue::Float(_) => "a fraction",
        DeValue::Datetime(_) => "a date",
        _ => "a number too large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Entry>, Vec<String>) {
        let mut faults = Vec::new();
        let entries = entries(Path::new("o.toml"), text, &mut faults);
        (entries, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_are_text_and_keys_know_their_line() {
        let (entries, faults) =
            read("# first\ncores = 4\nfail_open = false\n\nmax_request_bytes = \"10 MiB\"\n");
        assert!(faults.is_empty(), "{faults:?}");
        let shown: Vec<_> = entries.iter().map(|e| format!("{} = {}", e.place, e.value)).collect();
        assert_eq!(
            shown,
            ["o.toml:2 cores = 4", "o.toml:3 fail_open = false", "o.toml:5 max_request_bytes = 10 MiB"]
        );
    }

    #[test]
    fn what_is_not_toml_is_a_fault_with_its_line() {
        let (entries, faults) = read("cores = 4\nproxy_listen = 0.0.0.0:80\n");
        assert!(entries.is_empty());
        assert!(faults[0].starts_with("o.toml:2: "), "{faults:?}");
        let (_, twice) = read("cores = 4\ncores = 5\n");
        assert!(twice[0].starts_with("o.toml:2: ") && twice[0].contains("duplicate"), "{twice:?}");
    }

    #[test]
    fn sections_lists_and_fractions_are_faults() {
        let (_, faults) = read("cores = 1.5\nadmin_listen = [1]\n[server]\nx = 1\n");
        assert_eq!(faults.len(), 3);
        assert!(faults[0].starts_with("o.toml:1 cores: is a fraction"), "{faults:?}");
        assert!(faults[2].starts_with("o.toml:3 server: is a section"), "{faults:?}");
    }
}
