//! What a measurement does, read from TOML files in one folder: every figure a result depends on stands there.
//!
//! A file says which rows of the table it is for. Unknown keys are errors, so that a misspelt one is not a default.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use crate::load::Arrivals;

/// How long and how often everything is measured.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repeat {
    /// Valid rounds wanted.
    pub(crate) rounds: usize,
    /// Seconds of one measurement.
    pub(crate) secs: f64,
    /// Seconds of the same load before it.
    pub(crate) warmup_secs: f64,
}

impl Repeat {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_secs)
    }
}

/// A request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// Bytes of the request's body, about.
    pub(crate) request_bytes: usize,
    /// Tokens of the answer; each about 5 bytes in a JSON answer, one event of a stream.
    pub(crate) answer_tokens: u32,
}

/// `chat.toml`: closed loop, JSON answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chat {
    pub(crate) repeat: Repeat,
    pub(crate) exchange: Exchange,
    /// Each count is a measurement of its own.
    pub(crate) connections: Vec<usize>,
}

/// `latency.toml` and `shards.toml` (there, for each shard): open loop, JSON answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Open {
    pub(crate) repeat: Repeat,
    pub(crate) exchange: Exchange,
    pub(crate) connections: usize,
    /// Rate, as a part of what the slowest of those compared does in a closed loop.
    pub(crate) load: f64,
    /// Seconds of that closed loop.
    pub(crate) calibration_secs: f64,
    pub(crate) arrivals: Arrivals,
}

/// `stream.toml`: streams, paced and as fast as they come.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) repeat: Repeat,
    pub(crate) exchange: Exchange,
    /// Streams at once.
    pub(crate) streams: usize,
    /// Milliseconds between the events of a paced stream.
    pub(crate) cadence_ms: f64,
    pub(crate) backlog: Backlog,
}

/// Streams whose events the backend sends as fast as it can, so that events wait.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backlog {
    pub(crate) streams: usize,
    pub(crate) answer_tokens: u32,
}

/// `memory.toml`: connections that idle, streams that run, and what stays behind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// Each on fresh processes.
    pub(crate) rounds: usize,
    pub(crate) request_bytes: usize,
    /// Connections that have carried one request and wait.
    pub(crate) idle_connections: usize,
    /// Seconds over which they come.
    pub(crate) ramp_secs: f64,
    /// Streams at once.
    pub(crate) streams: usize,
    /// Milliseconds between their events.
    pub(crate) cadence_ms: f64,
    pub(crate) residue: Residue,
}

/// What stays behind after many streams.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Residue {
    pub(crate) streams: usize,
    /// Of them at once.
    pub(crate) at_once: usize,
    pub(crate) answer_tokens: u32,
    pub(crate) cadence_ms: f64,
    /// Seconds from the last one to the look.
    pub(crate) settle_secs: f64,
}

/// Reads one scenario.
///
/// # Errors
/// The file is missing, or does not say what it should.
pub(crate) fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let path = folder.join(name).with_extension("toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let table: toml::Table = text.parse()?;
    if let Some(repeat) = table.get("repeat") {
        let repeat: Repeat = repeat.clone().try_into()?;
        ensure!(repeat.rounds > 0, "repeat.rounds must be at least 1");
        ensure!(repeat.secs > 0.0 && repeat.warmup_secs >= 0.0, "repeat.secs must be above 0");
    }
    Ok(table.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
    }

    #[test]
    fn every_scenario_that_is_delivered_can_be_read() {
        let chat: Chat = read(&folder(), "chat").unwrap();
        assert_eq!(chat.connections, [32, 256]);
        read::<Open>(&folder(), "latency").unwrap();
        read::<Open>(&folder(), "shards").unwrap();
        read::<Stream>(&folder(), "stream").unwrap();
        read::<Memory>(&folder(), "memory").unwrap();
    }

    #[test]
    fn what_is_misspelt_missing_or_senseless_is_an_error() {
        let text = std::fs::read_to_string(folder().join("chat.toml")).unwrap();
        let broken = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            parse::<Chat>(&text.replace(from, to)).unwrap_err().to_string()
        };
        assert!(broken("request_bytes", "request_byte").contains("request_byte"));
        assert!(broken("connections =", "#").contains("connections"));
        assert!(broken("rounds = 5", "rounds = 0").contains("at least 1"));
        assert!(broken("secs = 3.0", "secs = 0.0").contains("above 0"));
    }
}
