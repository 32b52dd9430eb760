//! What happens to one request: the options, changed by its `x-sim-*` headers.
//!
//! The gateway passes headers it does not know, so a test steers the backend through it.

use std::time::Duration;

use obleth_wire::http1::RequestHead;

use crate::options::{Fault, Options, UsageShape};

/// The behaviour towards one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) fault: Option<Fault>,
    /// The fault strikes only the first so many requests with this `x-request-id`. None: all of them.
    pub(crate) fault_times: Option<u32>,
    /// Until the first token; an hour at most, as the interval.
    pub(crate) latency: Duration,
    /// Between tokens; zero is as fast as possible.
    pub(crate) interval: Duration,
    /// Length of the completion, unless the request's own limit is less.
    pub(crate) tokens: u32,
    pub(crate) usage: UsageShape,
    /// Each token is the time it was made.
    pub(crate) stamp: bool,
    /// The completion is the request's body.
    pub(crate) echo: bool,
    /// A comment stands before each token of a stream, as a proxy in between may put one there.
    pub(crate) comments: bool,
    /// Header lines to add to the answer, each `name: value`.
    pub(crate) headers: Vec<String>,
}

impl Plan {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// A message that names the header which does not say what it should.
    pub(crate) fn new(options: &Options, head: &RequestHead, buf: &[u8]) -> Result<Self, String> {
        let mut plan = Self {
            fault: options.fault,
            fault_times: None,
            latency: latency(options.latency_ms),
            interval: interval(options.tokens_per_second),
            tokens: options.tokens,
            usage: options.usage,
            stamp: false,
            echo: false,
            comments: false,
            headers: Vec::new(),
        };
        for (name, value, _) in head.iter(buf) {
            if let Some((start, rest)) = name.split_at_checked(6)
                && start.eq_ignore_ascii_case(b"x-sim-")
            {
                let rest = String::from_utf8_lossy(rest).to_ascii_lowercase();
                let value = String::from_utf8_lossy(value);
                plan.steer(&rest, &value).map_err(|why| format!("x-sim-{rest}: {why}"))?;
            }
        }
        Ok(plan)
    }

    fn steer(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "fault" if value == "none" => self.fault = None,
            "fault" => self.fault = Some(read(value)?),
            "fault-times" => self.fault_times = Some(read(value)?),
            "latency-ms" => self.latency = latency(read(value)?),
            "tokens" => self.tokens = read(value)?,
            "tps" => {
                let rate: f64 = read(value)?;
                if !(0.0..=1e9).contains(&rate) {
                    return Err("must be from 0 to 1e9".to_owned());
                }
                self.interval = interval(rate);
            }
            "usage" => self.usage = read(value)?,
            "stamp" => self.stamp = value == "1",
            "echo" => self.echo = value == "1",
            "comments" => self.comments = value == "1",
            "header" => self.headers.push(value.to_owned()),
            _ => return Err("no such steering header".to_owned()),
        }
        Ok(())
    }
}

fn read<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

/// The longest wait, so that no sum of waits leaves the clock's range.
const LONGEST: Duration = Duration::from_secs(3600);

fn latency(ms: u64) -> Duration {
    Duration::from_millis(ms).min(LONGEST)
}

fn interval(tokens_per_second: f64) -> Duration {
    if tokens_per_second > 0.0 {
        Duration::try_from_secs_f64(tokens_per_second.recip()).unwrap_or(LONGEST).min(LONGEST)
    } else {
        Duration::ZERO
    }
}
