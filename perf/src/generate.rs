//! `load`: a load generator for hands, on any server that speaks the OpenAI API.
//!
//! The same generators as in `compare`, with the field names of `vllm bench serve`. A refused or broken answer ends it:
//! figures of a run that failed in part mean nothing.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    load::{self, Arrivals, Interval, Outcome, Pace, Plan, Target, chat_request, write_hgrm, write_hlog},
    raise_descriptor_limit, seconds,
    terminal::{remark, say},
};

/// Arguments of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Base URL, as an SDK takes it: http://HOST:PORT, with or without /v1
    #[arg(long, value_name = "URL")]
    url: String,
    /// API key
    #[arg(long, value_name = "KEY", default_value = "none")]
    key: String,
    /// Model that requests name
    #[arg(long, value_name = "NAME", default_value = "demo")]
    model: String,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Requests per second, whatever the answers do; without it, each connection asks again when it has its answer
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    /// How requests of one rate lie in time
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,
    /// Seconds measured
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    duration: f64,
    /// Seconds of load before
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = seconds)]
    warmup: f64,
    /// Ask for streams
    #[arg(long)]
    stream: bool,
    /// Bytes of the prompt
    #[arg(long, value_name = "BYTES", default_value = "700", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    prompt_bytes: u32,
    /// `max_tokens` of requests
    #[arg(long, value_name = "N", default_value = "100")]
    max_tokens: u32,
    /// A header line to send, as in `x-sim-tps: 100`
    #[arg(long, value_name = "LINE")]
    header: Vec<String>,
    /// Write the distributions to PREFIX-e2el.hgrm, PREFIX-e2el.hlog …
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "write requests per second, 0.001 to 1000000".to_owned())
}

/// Puts the load on, and says what it saw: text on standard error, JSON on standard output.
///
/// # Errors
/// The URL is no server's, or an answer was not what it should be.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    raise_descriptor_limit()?;
    let (address, path) = server(&args.url)?;
    let extra: Vec<&str> = args.header.iter().map(String::as_str).collect();
    let request = chat_request(address, &path, &args.key, &extra, &body(args).to_string());
    let pace = match args.rate {
        Some(rate) => Pace::Open { rate, arrivals: args.arrivals, seed: 1 },
        None => Pace::Closed { ramp: Duration::ZERO },
    };
    let plan = Plan {
        targets: vec![Target { address, request }],
        connections: usize::from(args.connections),
        each: None,
        until_spent: false,
        pace,
        warmup: Duration::from_secs_f64(args.warmup),
        window: Duration::from_secs_f64(args.duration),
        drain: Some(Duration::from_secs(60)),
        equal_answers: false,
    };
    let outcome = load::run(&plan, &mut |_| Ok(()))?;
    remark(outcome.to_text().trim_end());
    say(&serde_json::to_string_pretty(&outcome.to_json())?);
    match &args.out {
        Some(prefix) => write(prefix, &outcome),
        None => Ok(()),
    }
}

fn body(args: &LoadArgs) -> Value {
    let content = "hello ".repeat((args.prompt_bytes as usize).div_ceil(6));
    let mut body = json!({
        "model": args.model,
        "max_tokens": args.max_tokens,
        "messages": [{"role": "user", "content": content}],
    });
    if args.stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn write(prefix: &std::path::Path, outcome: &Outcome) -> Result<()> {
    let since = SystemTime::now() - outcome.window;
    for (tag, times) in outcome.distributions() {
        let path = |kind: &str| PathBuf::from(format!("{}-{tag}.{kind}", prefix.display()));
        write_hgrm(&path("hgrm"), times)?;
        let interval = Interval { tag, times, offset: Duration::ZERO, length: outcome.window };
        write_hlog(&path("hlog"), since, &[interval])?;
    }
    Ok(())
}

/// Where a base URL's server is, and the path of its chat completions.
fn server(url: &str) -> Result<(SocketAddr, String)> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("{url}: write http://HOST:PORT (there is no TLS here)")
    };
    let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let named = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = named.to_socket_addrs().with_context(|| format!("{url}: no such host"))?;
    let base = base.trim_end_matches('/');
    let version = if base.ends_with("/v1") { "" } else { "/v1" };
    Ok((
        addresses.next().with_context(|| format!("{url}: no address"))?,
        format!("{base}{version}/chat/completions"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_read_as_sdks_read_it() {
        let path = |url| server(url).unwrap().1;
        assert_eq!(path("http://127.0.0.1:8080"), "/v1/chat/completions");
        assert_eq!(path("http://127.0.0.1:8080/v1/"), "/v1/chat/completions");
        assert_eq!(path("http://127.0.0.1/team/v1"), "/team/v1/chat/completions");
        assert_eq!(server("http://127.0.0.1/").unwrap().0.port(), 80);
        assert!(server("https://127.0.0.1").is_err());
        assert!(server("127.0.0.1:8080").is_err());
    }
}
