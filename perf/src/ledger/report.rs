//! What a run says: a table for people, a record for programs.
//!
//! A fault that was looked for and not found is a line too: 0 is the result.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::reconcile::{Fault, Judgement};
use crate::{
    finding::{Asked, Finding, Unit},
    report::Machine,
};

/// A run and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(super) seed: u64,
    pub(super) requests: usize,
    pub(super) connections: usize,
    /// When the gateway was killed, from the begin of the run.
    pub(super) kills_secs: Vec<f64>,
    /// From the first request to the last answer.
    pub(super) load_secs: f64,
    /// From the last answer until the ledger had everything, or was given up on.
    pub(super) settled_secs: f64,
    /// Records that the gateway says it had no room for; none if it does not say.
    pub(super) no_room: Option<f64>,
    /// From the return of the store that was away until the ledger had everything.
    pub(super) returned_secs: Option<f64>,
    /// The longest that the kernel kept the port of a killed gateway.
    pub(super) port_taken_secs: f64,
    pub(super) judgement: Judgement,
}

#[derive(Serialize)]
struct Whole<'a> {
    machine: &'a Machine,
    rows: Vec<Finding>,
    run: &'a Record,
}

impl Record {
    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.judgement.is_clean() && self.no_room.is_none_or(|count| count == 0.0)
    }

    fn findings(&self) -> Vec<Finding> {
        let Self { judgement, requests, kills_secs, .. } = self;
        let from = format!(
            "{requests} requests, {} kills, {} at the backend, {} rows",
            kills_secs.len(),
            judgement.seen,
            judgement.rows
        );
        let none = Asked::at_most(0.0, 0.0);
        let of = |row, what: &str, count: Option<f64>| {
            Finding::new(row, what, Unit::Count, none, count).from(from.clone())
        };
        let mut all: Vec<Finding> = Fault::ALL
            .into_iter()
            .map(|fault| {
                let row = matches!(fault, Fault::Lost | Fault::LostAnswer | Fault::Twice).then_some(19);
                of(row, fault.text(), Some(judgement.count(fault) as f64))
            })
            .collect();
        all.push(of(None, "records that found no room in the log", self.no_room));
        if let Some(secs) = self.returned_secs {
            let what = "seconds from the return of ClickHouse until the ledger has everything";
            let asked = Asked::at_most(60.0, 60.0);
            all.push(Finding::new(None, what, Unit::Count, asked, Some(secs)).from(from));
        }
        all
    }

    /// The table, and how requests ended.
    pub(crate) fn markdown(&self) -> String {
        let mut text =
            "| row | what | must | goal | measured | from | verdict |\n|---|---|---|---|---|---|---|\n"
                .to_owned();
        self.findings().iter().for_each(|finding| text.push_str(&finding.line()));
        let list = |counts: &std::collections::BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name}: {count}")).collect::<Vec<_>>().join(", ")
        };
        text.push_str(&format!(
            "\nClients: {}.\n\nRows: {}; {} output tokens in complete answers.\n\n{:.0} requests per second with every \
             restart, ledger complete {:.1} s after the last answer; seed {}.\n",
            list(&self.judgement.ends),
            list(&self.judgement.outcomes),
            self.judgement.tokens,
            self.requests as f64 / self.load_secs,
            self.settled_secs,
            self.seed
        ));
        for (fault, named) in &self.judgement.named {
            text.push_str(&format!("\n{}, the first:\n", fault.text()));
            named.iter().for_each(|one| text.push_str(&format!("- {one}\n")));
        }
        text
    }
}

/// Writes record and table into `folder`, named by date and commit. Gives the name they begin with.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(folder: &Path, machine: &Machine, record: &Record) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = folder.join(format!("{}-{}-ledger", machine.date_and_time(), machine.commit));
    let put = |kind: &str, text: &str| {
        let path = name.with_extension(kind);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let whole = Whole { machine, rows: record.findings(), run: record };
    put("json", &(serde_json::to_string_pretty(&whole)? + "\n"))?;
    put("md", &format!("{}\n{}", machine.markdown(), record.markdown()))?;
    Ok(name)
}
