//! The fairness runs from outside: a short one on the real gateway, its record, and that nothing stays behind.
//!
//! obleth is measured as it was built for these tests (`cargo test --workspace`, or `cargo build` before).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// The scenario that is delivered, with what stands beside the rows cut to a second each.
fn scenarios(folder: &Path) -> PathBuf {
    let delivered = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/fairness.toml");
    let mut scenario = fs::read_to_string(delivered).unwrap();
    for (part, secs) in [("[leaving]", "secs = 5.0"), ("[lone]", "secs = 4.0")] {
        let long = format!("{part}\n{secs}");
        assert!(scenario.contains(&long), "{long}");
        scenario = scenario.replace(&long, &format!("{part}\nsecs = 1.0"));
    }
    let into = folder.join("scenarios");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("fairness.toml"), scenario).unwrap();
    into
}

/// Processes that work in a folder below `folder`.
fn working_in(folder: &Path) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let inside = |path: PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    entries.filter(|entry| inside(entry.path())).count()
}

#[test]
fn users_who_leave_cost_nothing_and_a_lone_tenant_is_served_and_both_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_obleth-perf"))
        .args(["fairness", "--rows", "0", "--scenarios"])
        .arg(scenarios(folder.path()))
        .arg("--results")
        .arg(folder.path().join("results"))
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(working_in(folder.path()), 0);

    let results: Vec<PathBuf> =
        fs::read_dir(folder.path().join("results")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let of_kind = |kind: &str| {
        let path = results.iter().find(|path| path.extension().is_some_and(|extension| extension == kind));
        fs::read_to_string(path.unwrap_or_else(|| panic!("no .{kind}"))).unwrap()
    };
    let record: Value = serde_json::from_str(&of_kind("json")).unwrap();
    let rows = record["rows"].as_array().unwrap();
    let value = |what: &str| {
        let row = rows.iter().find(|row| row["what"].as_str().unwrap().contains(what));
        row.unwrap_or_else(|| panic!("no {what}: {said}"))["value"].as_f64()
    };
    assert_eq!(value("that reached the backend"), Some(0.0), "{said}");
    assert_eq!(value("sum of the gauges after users left"), Some(0.0), "{said}");
    assert_eq!(value("requests open at the backend after users left"), Some(0.0), "{said}");
    assert_eq!(value("highest of all runs"), Some(1.0), "{said}");
    assert!(value("a lone tenant").unwrap() > 50.0, "{said}");
    assert!(of_kind("md").contains("a lone tenant") && of_kind("svg").starts_with("<svg"));
}

#[test]
fn a_row_that_is_not_measured_here_is_named_with_those_that_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_obleth-perf"))
        .args(["fairness", "--rows", "12", "--obleth", env!("CARGO_BIN_EXE_obleth-perf")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("row 12") && said.contains("14"), "{said}");
}
