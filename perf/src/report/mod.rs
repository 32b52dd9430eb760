//! What a comparison says, for people.

use crate::{
    compare::Group,
    rows::{Finding, figure},
    statistics::median,
};

/// The table of rows, and below it what everybody used.
pub(crate) fn markdown(groups: &[Group]) -> String {
    let mut text = "| row | what | must | goal | measured, median [min–max] | rounds | verdict |\n|---|---|---|---|---|---|---|\n".to_owned();
    for finding in groups.iter().flat_map(|group| &group.findings) {
        text.push_str(&line(finding));
    }
    for group in groups {
        text.push_str(&subjects(group));
    }
    text
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
