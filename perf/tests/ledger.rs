//! The reconciliation from outside: a short one on the real gateway, its record, and that nothing stays behind.
//!
//! obleth is measured as it was built for these tests (`cargo test --workspace`, or `cargo build` before).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// Processes that work in a folder below `folder`.
fn working_in(folder: &Path) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let inside = |path: PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    entries.filter(|entry| inside(entry.path())).count()
}

#[test]
fn a_gateway_that_is_killed_under_load_accounts_for_every_request_and_that_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_obleth-perf"))
        .args(["ledger", "--requests", "2000", "--kills", "2", "--connections", "32", "--results"])
        .arg(folder.path().join("results"))
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(working_in(folder.path()), 0);

    let results: Vec<_> = fs::read_dir(folder.path().join("results")).unwrap().flatten().collect();
    let json =
        results.iter().map(fs::DirEntry::path).find(|path| path.extension().unwrap() == "json").unwrap();
    let record: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let rows: Vec<&Value> =
        record["rows"].as_array().unwrap().iter().filter(|row| row["row"] == 19).collect();
    assert_eq!(rows.len(), 3, "{said}");
    assert!(rows.iter().all(|row| row["value"] == 0.0 && row["verdict"] == "goal"), "{said}");
    let run = &record["run"];
    assert_eq!(run["requests"], 2000);
    assert!(run["kills_secs"].as_array().unwrap().len() >= 3, "two under load, one at rest: {said}");
    assert!(run["judgement"]["ends"]["Whole"].as_u64().unwrap() > 1000, "{said}");
}
