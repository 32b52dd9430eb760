//! How the backend behaves, as long as no `x-sim-*` header of a request says otherwise.
//!
//! Options are values: a change through `POST /sim/options` makes a new set, and requests under way keep theirs.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::oddity::{ODDITIES, Oddity};
use crate::tls::Tls;

/// The backend's behaviour. Its JSON form is what `POST /sim/options` merges into.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where [`crate::spawn`] listens; port 0 picks a free one. Cannot be changed while it runs.
    #[serde(skip, default = "any_port")]
    pub listen: SocketAddr,
    /// Served model names, separated by commas; `*` serves every name. Another name is answered with 404.
    pub model: String,
    /// Milliseconds until the first token.
    pub latency_ms: u64,
    /// Tokens per second after the first; 0 is as fast as possible.
    pub tokens_per_second: f64,
    /// Tokens of a completion, unless the request's `max_tokens` is less.
    pub tokens: u32,
    /// Completions generated at once; further requests wait in order of arrival. None: no limit.
    pub max_concurrency: Option<u32>,
    /// Answers 503 instead of letting requests wait.
    pub reject_over_limit: bool,
    /// Milliseconds an idle connection is kept. vLLM's default.
    pub keep_alive_ms: u64,
    /// What goes wrong with every completion.
    pub fault: Option<Fault>,
    /// Where a stream's usage stands, for requests that ask for it; and with `none` that a JSON answer has none.
    pub usage: UsageShape,
    /// Requests that `GET /sim/journal` remembers; 0: none.
    pub journal: usize,
    /// The only credential that is accepted on `/v1/*`, if set. Never shown.
    #[serde(skip_serializing)]
    pub api_key: Option<String>,
    /// Under which it listens; none: plain HTTP. Cannot be changed while it runs.
    #[serde(skip)]
    pub tls: Option<Tls>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: any_port(),
            model: "*".to_owned(),
            latency_ms: 0,
            tokens_per_second: 0.0,
            tokens: 16,
            max_concurrency: None,
            reject_over_limit: false,
            keep_alive_ms: 5000,
            fault: None,
            usage: UsageShape::Final,
            journal: 0,
            api_key: None,
            tls: None,
        }
    }
}

impl Options {
    /// These options with the members of a JSON object in place of theirs.
    ///
    /// # Errors
    /// A message for the caller: not an object, an unknown member, a value of the wrong type or out of range.
    pub fn merged(&self, changes: &[u8]) -> Result<Self, String> {
        let changes: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(changes).map_err(|error| format!("not a JSON object: {error}"))?;
        let serde_json::Value::Object(mut members) =
            serde_json::to_value(self).map_err(|error| error.to_string())?
        else {
            return Err("the options are not an object".to_owned());
        };
        members.insert("api_key".to_owned(), self.api_key.clone().into());
        members.extend(changes);
        let members = serde_json::Value::Object(members);
        let merged: Self = serde_json::from_value(members).map_err(|error| error.to_string())?;
        if !(0.0..=1e9).contains(&merged.tokens_per_second) {
            return Err("tokens_per_second must be from 0 to 1e9".to_owned());
        }
        Ok(Self { listen: self.listen, tls: self.tls.clone(), ..merged })
    }

    /// The served names; empty if every name is.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.model.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "*")
    }

    /// Whether a model of this name is served.
    pub(crate) fn serves(&self, model: &str) -> bool {
        let mut names = self.model.split(',').map(str::trim);
        names.any(|name| name == "*" || name == model)
    }
}

/// A name that stands for no fault or usage shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName(String);

impl std::fmt::Display for UnknownName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown name {:?}", self.0)
    }
}

impl std::error::Error for UnknownName {}

/// What goes wrong with an answer. To die is to close the connection without ending the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fault {
    /// Dies without a byte of an answer.
    DieBeforeHead,
    /// Dies behind the head.
    DieAfterHead,
    /// Dies behind the chunk that names the role; a JSON answer, behind its first byte.
    DieAfterRole,
    /// Dies after ten tokens, or half of them if that is less; a JSON answer, in its middle.
    DieAfterTokens,
    /// Dies with everything sent but `[DONE]`; a JSON answer, all but its last byte.
    DieBeforeDone,
    /// Never sends a byte.
    StallBeforeHead,
    /// Sends what `DieAfterTokens` sends, then nothing more.
    StallAfterTokens,
    /// Answers with this status, 400 to 599, and the error body that vLLM, or whatever stands in front of it, has
    /// for it.
    Status(u16),
    /// Closes the connection right after a complete answer, without having announced it.
    CloseIdle,
    /// An answer that no well-kept server gives.
    Odd(Oddity),
}

const FAULTS: [(&str, Fault); 8] = [
    ("die-before-head", Fault::DieBeforeHead),
    ("die-after-head", Fault::DieAfterHead),
    ("die-after-role", Fault::DieAfterRole),
    ("die-after-tokens", Fault::DieAfterTokens),
    ("die-before-done", Fault::DieBeforeDone),
    ("stall-before-head", Fault::StallBeforeHead),
    ("stall-after-tokens", Fault::StallAfterTokens),
    ("close-idle", Fault::CloseIdle),
];

impl FromStr for Fault {
    type Err = UnknownName;

    /// Reads a fault as `x-sim-fault` and the options spell it: `die-after-head`, `status-503`.
    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let status = name.strip_prefix("status-").and_then(|status| status.parse().ok());
        match status {
            Some(status @ 400..600) => Ok(Self::Status(status)),
            _ => lookup(&FAULTS, name).or_else(|_| lookup(&ODDITIES, name).map(Self::Odd)),
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = UnknownName;

    fn try_from(name: String) -> Result<Self, UnknownName> {
        name.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Status(status) => format!("status-{status}"),
            Fault::Odd(oddity) => name_of(&ODDITIES, oddity).to_owned(),
            fault => name_of(&FAULTS, fault).to_owned(),
        }
    }
}

/// Where a stream's usage stands, for requests with `stream_options.include_usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UsageShape {
    /// In a last event with empty `choices`; every event before it has `"usage":null` (OpenAI).
    Final,
    /// In a last event with empty `choices`; the events before it have no such member (vLLM).
    FinalOnly,
    /// In the event with the finish reason; `"usage":null` in those before it.
    LastWithChoices,
    /// Running counts in every event, and the last event with empty `choices` (vLLM's `continuous_usage_stats`).
    Every,
    /// Nowhere, as from a backend that does not know the option; not in JSON answers either.
    None,
}

const SHAPES: [(&str, UsageShape); 5] = [
    ("final", UsageShape::Final),
    ("final-only", UsageShape::FinalOnly),
    ("last-with-choices", UsageShape::LastWithChoices),
    ("every", UsageShape::Every),
    ("none", UsageShape::None),
];

impl FromStr for UsageShape {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        lookup(&SHAPES, name)
    }
}

impl TryFrom<String> for UsageShape {
    type Error = UnknownName;

    fn try_from(name: String) -> Result<Self, UnknownName> {
        name.parse()
    }
}

impl From<UsageShape> for String {
    fn from(shape: UsageShape) -> Self {
        name_of(&SHAPES, shape).to_owned()
    }
}

fn lookup<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T, UnknownName> {
    let row = table.iter().find(|(known, _)| *known == name);
    row.map(|(_, value)| *value).ok_or_else(|| UnknownName(name.to_owned()))
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    let row = table.iter().find(|(_, known)| *known == value);
    row.map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_read_by_its_name_and_written_by_it() {
        for name in FAULTS
            .iter()
            .map(|(name, _)| *name)
            .chain(ODDITIES.map(|(name, _)| name))
            .chain(["status-400", "status-599"])
        {
            let fault: Fault = name.parse().unwrap();
            assert_eq!(String::from(fault), name);
        }
        for name in ["die", "", "status-200", "status-600", "status-x"] {
            assert!(name.parse::<Fault>().is_err(), "{name}");
        }
    }

    #[test]
    fn merging_changes_what_is_named_and_nothing_else() {
        let start = Options { api_key: Some("k".to_owned()), tokens: 3, ..Options::default() };
        let changed = start.merged(br#"{"fault":"status-429","latency_ms":7,"max_concurrency":2}"#).unwrap();
        assert_eq!(
            (changed.fault, changed.latency_ms, changed.max_concurrency),
            (Some(Fault::Status(429)), 7, Some(2))
        );
        assert_eq!((changed.tokens, changed.api_key.as_deref()), (3, Some("k")));
        assert_eq!(changed.merged(br#"{"fault":null}"#).unwrap().fault, None);
        for wrong in [
            "[]",
            "{",
            r#"{"latency":1}"#,
            r#"{"tokens":-1}"#,
            r#"{"fault":"x"}"#,
            r#"{"tokens_per_second":-1}"#,
        ] {
            assert!(start.merged(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_among_the_names_serves_every_model() {
        let named = Options { model: "a, org/b".to_owned(), ..Options::default() };
        assert!(named.serves("a") && named.serves("org/b") && !named.serves("c"));
        assert!(Options::default().serves("anything"));
    }
}
