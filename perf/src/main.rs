//! `obleth-perf`: measures obleth beside its peers, or puts load on anything that speaks the OpenAI API.
//!
//! `compare` measures what a request costs, `fairness` who gets how much, `ledger` whether every request is accounted
//! for; `load` and `floor` are parts, for hands. It is no part of the product, and must never be needed to run it.

mod compare;
mod fairness;
mod finding;
mod floor;
mod generate;
mod http;
mod ledger;
mod load;
mod meter;
mod peers;
mod process;
mod processors;
mod report;
mod rounds;
mod rows;
mod scenario;
mod signals;
mod statistics;
mod subject;
mod terminal;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use compare::Asked;
use terminal::{remark, say};

/// Measures obleth beside nginx, HAProxy and a forwarder that parses nothing.
#[derive(Debug, Parser)]
#[command(name = "obleth-perf")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the rows of the table in interleaved rounds
    Compare(CompareArgs),
    /// Measure who gets how much of a contended pool, and how soon
    Fairness(FairnessArgs),
    /// Kill the gateway under load, and hold its ledger against the backend's own count
    Ledger(LedgerArgs),
    /// Put load on a server that speaks the OpenAI API
    Load(generate::LoadArgs),
    /// Forward bytes and parse nothing, until ended
    Floor(FloorArgs),
}

#[derive(Debug, Args)]
struct FloorArgs {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where it forwards to
    #[arg(long, value_name = "ADDRESS")]
    to: SocketAddr,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Rows to measure, separated by commas [default: all]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    rows: Vec<u8>,
    /// Valid rounds [default: as the scenarios say]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Seconds of one measurement [default: as the scenarios say]
    #[arg(long, value_parser = seconds)]
    secs: Option<f64>,
    /// Pause before the last look at memory [default: as the scenario says]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    settle: Option<f64>,
    /// A build from before the ledger, to measure row 20 against
    #[arg(long, value_name = "PROGRAM")]
    without: Option<PathBuf>,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "PROGRAM")]
    obleth: Option<PathBuf>,
    /// Folder of the scenarios
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))]
    scenarios: PathBuf,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

#[derive(Debug, Args)]
struct FairnessArgs {
    /// Rows to measure, separated by commas; 0 is what stands beside the rows [default: all]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    rows: Vec<u8>,
    /// Figures to quote: longer windows, more of them, more seeds; takes about 100 minutes
    #[arg(long)]
    full: bool,
    /// Seconds of a window of rows 11 and 14 [default: as the scenario says]
    #[arg(long, value_parser = seconds)]
    secs: Option<f64>,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "PROGRAM")]
    obleth: Option<PathBuf>,
    /// Folder of the scenarios
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))]
    scenarios: PathBuf,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

#[derive(Debug, Args)]
struct LedgerArgs {
    /// Requests to make [default: 20000; 1000000 with --full]
    #[arg(long, value_name = "N")]
    requests: Option<usize>,
    /// Times the gateway is killed [default: 5; 100 with --full]
    #[arg(long, value_name = "K")]
    kills: Option<usize>,
    /// Figures to quote
    #[arg(long)]
    full: bool,
    /// Keep the ledger in a ClickHouse that is away for so many seconds, at 500 requests a second, in place of a closed loop
    #[arg(long, value_parser = seconds, requires = "clickhouse", conflicts_with = "requests")]
    outage: Option<f64>,
    /// The library that is ClickHouse (`tests/run` installs it)
    #[arg(long, value_name = "LIBRARY", requires = "outage")]
    clickhouse: Option<PathBuf>,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 192)]
    connections: usize,
    /// What is drawn: requests, moments of kills
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "PROGRAM")]
    obleth: Option<PathBuf>,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    let secs = text.parse().ok().filter(|secs| (0.1..=86_400.0).contains(secs));
    secs.ok_or_else(|| "write seconds, 0.1 to 86400".to_owned())
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let done = match command {
        Command::Floor(args) => floor::run(args.listen, args.to),
        Command::Load(args) => signals::listen().and_then(|()| generate::run(&args)),
        Command::Compare(args) => signals::listen().and_then(|()| compare(args)),
        Command::Fairness(args) => signals::listen().and_then(|()| fairness(args)),
        Command::Ledger(args) => signals::listen().and_then(|()| ledger(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            remark(&format!("obleth-perf: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn compare(args: CompareArgs) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("obleth-perf-").tempdir()?;
    let asked = Asked {
        rows: args.rows,
        rounds: args.rounds.map(usize::from),
        secs: args.secs,
        settle: args.settle,
        without: args.without.as_deref().map(|path| subject::program(Some(path))).transpose()?,
        obleth: subject::program(args.obleth.as_deref())?,
        scenarios: args.scenarios,
        folder: folder.path().to_owned(),
        processors: processors::allowed()?,
    };
    raise_descriptor_limit()?;
    let groups = compare::run(&asked)?;
    say(&report::markdown(&groups));
    let machine = report::Machine::look(&asked.obleth);
    let name = report::write(&args.results, &machine, &groups)?;
    remark(&format!("written: {}.json, .md, .svg", name.display()));
    Ok(())
}

fn fairness(args: FairnessArgs) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("obleth-perf-").tempdir()?;
    let asked = fairness::Asked {
        rows: args.rows,
        full: args.full,
        secs: args.secs,
        obleth: subject::program(args.obleth.as_deref())?,
        scenarios: args.scenarios,
        folder: folder.path().to_owned(),
        processors: processors::allowed()?,
    };
    raise_descriptor_limit()?;
    let chapters = fairness::run(&asked)?;
    say(&fairness::markdown(&chapters));
    let name = fairness::write(&args.results, &report::Machine::look(&asked.obleth), &chapters)?;
    remark(&format!("written: {}.json, .md, .svg", name.display()));
    Ok(())
}

/// # Errors
/// The ledger is wrong, too: the table says how.
fn ledger(args: LedgerArgs) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("obleth-perf-").tempdir()?;
    let pick = |short, long| if args.full { long } else { short };
    let (requests, outage) = match args.clickhouse.zip(args.outage) {
        Some((library, secs)) => {
            let (requests, outage) = ledger::Outage::of(library, secs);
            (Some(requests), Some(outage))
        }
        None => (None, None),
    };
    let asked = ledger::Asked {
        requests: requests.or(args.requests).unwrap_or(pick(20_000, 1_000_000)),
        kills: args.kills.unwrap_or(pick(5, 100)),
        connections: args.connections,
        seed: args.seed,
        outage,
        obleth: subject::program(args.obleth.as_deref())?,
        folder: folder.path().to_owned(),
        processors: processors::allowed()?,
    };
    raise_descriptor_limit()?;
    let record = ledger::run(&asked)?;
    say(&record.markdown());
    let name = ledger::write(&args.results, &report::Machine::look(&asked.obleth), &record)?;
    remark(&format!("written: {}.json, .md", name.display()));
    ensure!(record.is_clean(), "the ledger is not what clients and backend saw");
    Ok(())
}

/// As many descriptors as the kernel allows; what is started inherits it.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}
