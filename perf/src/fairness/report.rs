//! What the runs say: a table for people, a record for programs, a picture of shares over time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    Chapter,
    picture::{self, Picture},
};
use crate::{finding::Finding, report::Machine};

#[derive(Serialize)]
struct Record<'a> {
    machine: &'a Machine,
    rows: Vec<&'a Finding>,
    runs: Vec<Run<'a>>,
}

#[derive(Serialize)]
struct Run<'a> {
    name: &'a str,
    figures: &'a Value,
}

/// Writes record, table and picture into `folder`, named by date and commit. Gives the name they begin with.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(folder: &Path, machine: &Machine, chapters: &[Chapter]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = folder.join(format!("{}-{}-fairness", machine.date_and_time(), machine.commit));
    let put = |kind: &str, text: &str| {
        let path = name.with_extension(kind);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let runs = chapters.iter().map(|chapter| Run { name: &chapter.name, figures: &chapter.record });
    let record = Record { machine, rows: findings(chapters), runs: runs.collect() };
    put("json", &(serde_json::to_string_pretty(&record)? + "\n"))?;
    put("md", &format!("{}\n{}", machine.markdown(), markdown(chapters)))?;
    let pictures: Vec<Picture> = chapters.iter().flat_map(|chapter| chapter.pictures.clone()).collect();
    put("svg", &picture::svg(&pictures, &machine.line()))?;
    Ok(name)
}

/// The table.
pub(crate) fn markdown(chapters: &[Chapter]) -> String {
    let mut text =
        "| row | what | must | goal | measured [least–most] | from | verdict |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    findings(chapters).into_iter().for_each(|finding| text.push_str(&finding.line()));
    text
}

/// In the order of the rows; what stands beside them comes last.
fn findings(chapters: &[Chapter]) -> Vec<&Finding> {
    let mut all: Vec<&Finding> = chapters.iter().flat_map(|chapter| &chapter.findings).collect();
    all.sort_by_key(|finding| finding.row.unwrap_or(u8::MAX));
    all
}
