//! `fairness`: who gets how much of a contended pool, and how soon; of the real process, over real sockets.
//!
//! One file per row of the table. Each starts a gateway and a backend of its own, measures what arrives at the clients,
//! and stops them. It must never look into the gateway for a figure that a client can measure.

mod change;
mod client;
mod contest;
mod generator;
mod leaving;
mod lengths;
mod picture;
mod placed;
mod report;
mod rig;
mod saturation;
mod scenario;
mod seen;
mod shares;
mod wait;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::Value;

pub(crate) use self::report::{markdown, write};
use self::{picture::Picture, rig::Ground, scenario::Scenario};
use crate::{
    finding::{Asked as AskedOf, Finding, Unit},
    scenario as scenarios,
    signals::Interrupted,
    terminal::remark,
};

/// The rows this program measures here; 0 stands for what stands beside the rows.
pub(crate) const ROWS: [u8; 6] = [0, 11, 14, 15, 16, 17];
/// Above this part of the processors in use, scheduling noise decides.
const QUIET: f64 = 0.6;

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Numbers of the rows; all if empty.
    pub(crate) rows: Vec<u8>,
    /// Windows, seeds and rounds to quote, not those for a first look.
    pub(crate) full: bool,
    /// Seconds of a window of rows 11 and 14, in place of what the scenario says.
    pub(crate) secs: Option<f64>,
    /// The program `obleth`.
    pub(crate) obleth: PathBuf,
    /// Where scenarios are.
    pub(crate) scenarios: PathBuf,
    /// A folder for whatever is started.
    pub(crate) folder: PathBuf,
    /// Processors to run on.
    pub(crate) processors: Vec<usize>,
}

/// What one measurement gave.
pub(crate) struct Chapter {
    name: String,
    findings: Vec<Finding>,
    pictures: Vec<Picture>,
    /// What the figures were made of.
    record: Value,
    /// Most requests open at the backend at once ÷ slots, one per run.
    open: Vec<f64>,
}

impl Chapter {
    fn new(name: &str) -> Self {
        let (findings, pictures) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), findings, pictures, record: Value::Null, open: Vec::new() }
    }

    /// A run is over in which so many requests were open at the backend at once.
    fn opened(&mut self, most: u64, slots: u32) {
        self.open.push(most as f64 / f64::from(slots));
    }
}

/// Measures the rows that are asked for.
///
/// # Errors
/// A signal came, or the scenario cannot be read. A measurement that failed is a finding without a value.
pub(crate) fn run(asked: &Asked) -> Result<Vec<Chapter>> {
    for row in &asked.rows {
        ensure!(ROWS.contains(row), "row {row} is not measured here; there are {ROWS:?}");
    }
    let scenario: Scenario = scenarios::read(&asked.scenarios, "fairness")?;
    let mut chapters = Vec::new();
    for (row, name, measure) in measurements(asked, &scenario) {
        if !asked.rows.is_empty() && !asked.rows.contains(&row) {
            continue;
        }
        remark(&format!("{name} …"));
        let ground = Ground { obleth: &asked.obleth, folder: &asked.folder, processors: &asked.processors };
        chapters.push(match measure(ground) {
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => failed(row, &name, &error),
            Ok(chapter) => chapter,
        });
    }
    chapters.push(conservation(&chapters));
    Ok(chapters)
}

/// A measurement: its row, its name, what it does.
type Measurement<'a> = (u8, String, Box<dyn Fn(Ground<'_>) -> Result<Chapter> + 'a>);

fn measurements<'a>(asked: &'a Asked, scenario: &'a Scenario) -> Vec<Measurement<'a>> {
    let full = asked.full;
    let pick = move |short, long| if full { long } else { short };
    let timed =
        |repeat: scenario::Repeat| scenario::Repeat { secs: asked.secs.unwrap_or(repeat.secs), ..repeat };
    let mut all: Vec<Measurement<'a>> = Vec::new();
    for shares in &scenario.shares {
        if let Some(repeat) = pick(shares.repeat, Some(shares.full)).map(timed) {
            let measure = move |ground: Ground<'_>| contest::shares(ground, shares, repeat);
            all.push((11, shares.name.clone(), Box::new(measure)));
        }
    }
    if let Some(repeat) = pick(scenario.skew.repeat, Some(scenario.skew.full)).map(timed) {
        let measure = move |ground: Ground<'_>| contest::skew(ground, &scenario.skew, repeat);
        all.push((14, scenario.skew.name.clone(), Box::new(measure)));
    }
    let (wait, change) = (&scenario.wait, &scenario.change);
    let repeat = if full { wait.full } else { wait.repeat };
    all.push((15, "wait".to_owned(), Box::new(move |ground| wait::run(ground, wait, repeat))));
    let rounds = if full { change.full_rounds } else { change.rounds };
    all.push((16, "change".to_owned(), Box::new(move |ground| change::run(ground, change, rounds))));
    for one in &scenario.saturation {
        let rounds = if full { one.full_rounds } else { one.rounds };
        all.push((17, one.name.clone(), Box::new(move |ground| saturation::run(ground, one, rounds))));
    }
    let secs = if full { scenario.leaving.full_secs } else { scenario.leaving.secs };
    all.push((
        0,
        "leaving".to_owned(),
        Box::new(move |ground| leaving::run(ground, &scenario.leaving, secs)),
    ));
    all.push((0, "lone".to_owned(), Box::new(move |ground| saturation::lone(ground, &scenario.lone))));
    all
}

/// A measurement that came to nothing, with the reason.
fn failed(row: u8, name: &str, error: &anyhow::Error) -> Chapter {
    remark(&format!("{name}: {error:#}"));
    let row = Some(row).filter(|row| *row > 0);
    let finding = Finding::new(row, name, Unit::Ratio, AskedOf::nothing(), None).remark(format!("{error:#}"));
    Chapter { findings: vec![finding], ..Chapter::new(name) }
}

/// Whether any run had more open at the backend than the pool has slots.
fn conservation(chapters: &[Chapter]) -> Chapter {
    let open: Vec<f64> = chapters.iter().flat_map(|chapter| chapter.open.iter().copied()).collect();
    let most = open.iter().copied().max_by(f64::total_cmp);
    let what = "requests open at the backend at once ÷ slots, highest of all runs";
    let finding = Finding::new(None, what, Unit::Ratio, AskedOf::at_most(1.0, 1.0), most);
    let finding = finding.from(format!("{} runs", open.len()));
    Chapter { findings: vec![finding], ..Chapter::new("conservation") }
}

fn busy_text(busy: f64) -> String {
    let loud = if busy > QUIET { ": above 60 % scheduling noise decides" } else { "" };
    format!("processors {:.0} % busy{loud}", busy * 100.0)
}
