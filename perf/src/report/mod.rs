//! What a comparison says: a table for people, a record for programs, a picture.
//!
//! Everything in them comes from the rounds; nothing is measured or left out here.

mod machine;
mod plot;
mod record;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) use self::machine::Machine;
use crate::{
    compare::Group,
    load::{Interval, Times, write_hgrm, write_hlog},
    rows::{Finding, figure},
    statistics::median,
};

/// Writes the record, the table, the picture and the distributions into `folder`, named by date and commit. Gives the
/// name they begin with.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(folder: &Path, machine: &Machine, groups: &[Group]) -> Result<PathBuf> {
    let name = folder.join(format!("{}-{}", machine.date_and_time(), machine.commit));
    let put = |kind: &str, text: &str| {
        let path = name.with_extension(kind);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    put("json", &record::json(machine, groups)?)?;
    put("md", &format!("{}\n{}", machine.markdown(), markdown(groups)))?;
    put("svg", &plot::svg(machine, groups))?;
    for group in groups.iter().filter(|group| !group.distributions.is_empty()) {
        std::fs::create_dir_all(&name)?;
        distributions(&name, group)?;
    }
    Ok(name)
}

/// One log per kind of time, one table per subject.
fn distributions(folder: &Path, group: &Group) -> Result<()> {
    let scenario = group.name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut kinds: Vec<&str> = group.distributions.iter().map(|one| one.what).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of_kind: Vec<_> = group.distributions.iter().filter(|one| one.what == kind).collect();
        let Some(since) = of_kind.iter().map(|one| one.end - one.window).min() else { continue };
        let intervals: Vec<_> = of_kind
            .iter()
            .map(|one| Interval {
                tag: &one.subject,
                times: &one.times,
                offset: (one.end - one.window).duration_since(since).unwrap_or_default(),
                length: one.window,
            })
            .collect();
        write_hlog(&folder.join(format!("{scenario}-{kind}.hlog")), since, &intervals)?;
        let mut subjects: Vec<&str> = of_kind.iter().map(|one| one.subject.as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        for subject in subjects {
            let mut all = Times::new()?;
            of_kind.iter().filter(|one| one.subject == subject).try_for_each(|one| all.add(&one.times))?;
            write_hgrm(&folder.join(format!("{scenario}-{kind}-{subject}.hgrm")), &all)?;
        }
    }
    Ok(())
}

/// The table of rows, and below it what everybody used.
pub(crate) fn markdown(groups: &[Group]) -> String {
    let mut text = "| row | what | must | goal | measured, median [min–max] | rounds | verdict |\n|---|---|---|---|---|---|---|\n".to_owned();
    findings(groups).into_iter().for_each(|finding| text.push_str(&line(finding)));
    for group in groups {
        text.push_str(&subjects(group));
    }
    text
}

/// All findings in the order of the rows.
fn findings(groups: &[Group]) -> Vec<&Finding> {
    let mut all: Vec<_> = groups.iter().flat_map(|group| &group.findings).collect();
    all.sort_by_key(|finding| finding.row.number);
    all
}

fn line(finding: &Finding) -> String {
    let (must, goal) = finding.asked();
    let remark = finding.remark.as_ref().map_or(String::new(), |remark| format!(" ({remark})"));
    format!(
        "| {} | {}{remark} | {must} | {goal} | {} | {} | {} |\n",
        finding.row.number,
        finding.row.what,
        finding.measured(),
        finding.values.len(),
        finding.verdict().text()
    )
}

/// The median of every figure of every subject of a group.
fn subjects(group: &Group) -> String {
    let valid: Vec<_> = group.rounds.iter().filter(|round| round.void.is_none()).collect();
    let Some(first) = valid.first() else { return String::new() };
    let mut names: Vec<&str> = Vec::new();
    for name in first.figures.values().flat_map(|figures| figures.keys()) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let heads: String = names.iter().map(|name| format!(" {name} |")).collect();
    let mut text = format!("\n{}, medians:\n\n| |{heads}\n|---|{}\n", group.name, "---|".repeat(names.len()));
    for subject in first.figures.keys() {
        let cell = |name: &&str| {
            let values: Vec<f64> = valid.iter().filter_map(|round| round.get(subject, name)).collect();
            median(&values).map_or(" |".to_owned(), |value| format!(" {} |", figure(value)))
        };
        let cells: String = names.iter().map(cell).collect();
        text.push_str(&format!("| {subject} |{cells}\n"));
    }
    text
}
