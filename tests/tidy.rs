//! What a machine can judge of the way this tree is written: who may import whom, how files open and how long
//! they are, where environment, output and versions belong.
//!
//! Each rule collects everything that breaks it, so that one run shows all of it. A rule that needs an
//! exception gets a named list here, never a silent gap.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Where our own files are; everything else at the top is a tool's.
const TREES: [&str; 6] = ["src", "core", "admin", "benches", "perf", "tests"];
/// Everything that may stand at the top besides dotfiles and what `.gitignore` names.
const TOP: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "admin",
    "benches",
    "contrib",
    "core",
    "migrations",
    "perf",
    "src",
    "tests",
];
/// Longest file that a reader can hold in mind.
const MOST_LINES: usize = 500;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "types", "misc"];
/// Files that may turn `unsafe` on. `socket.rs`: monoio gives a descriptor as a bare number, and to act on a
/// socket that others wait on takes a borrow of it. `allocations.rs`: an allocator that counts is one. `mapping.rs`:
/// memory that outlives the process is a file mapped shared, and the kernel gives it as a bare address.
const UNSAFE: [&str; 4] = [
    "benches/src/allocations.rs",
    "core/ledger/src/mapping.rs",
    "core/proxy/src/socket.rs",
    "src/allocator.rs",
];
/// Which crates of this workspace a crate may import.
const IMPORTS: [(&str, &[&str]); 12] = [
    ("obleth-policy", &[]),
    ("obleth-wire", &[]),
    ("obleth-link", &["obleth-policy"]),
    ("obleth-ledger", &["obleth-policy", "obleth-link"]),
    ("obleth-proxy", &["obleth-policy", "obleth-wire", "obleth-link", "obleth-ledger"]),
    ("obleth-admin", &["obleth-policy", "obleth-link", "obleth-ledger"]),
    ("obleth-benches", &["obleth-policy", "obleth-link", "obleth-ledger"]),
    ("obleth-upstream", &["obleth-wire"]),
    ("obleth-fuzz", &["obleth-wire"]),
    ("obleth-perf", &["obleth-wire"]),
    ("obleth-sim", &["obleth-policy"]),
    (
        "obleth",
        &[
            "obleth-policy",
            "obleth-wire",
            "obleth-link",
            "obleth-ledger",
            "obleth-proxy",
            "obleth-admin",
            "obleth-upstream",
        ],
    ),
];

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(&format!("{folder}/"))
    }

    /// Integration tests of any crate.
    fn is_test(&self) -> bool {
        self.is_in("tests") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Numbered lines in which one of `words` occurs.
    fn lines_with<'s>(&'s self, words: &'s [&str]) -> impl Iterator<Item = String> + 's {
        let hit = move |(_, line): &(usize, &str)| words.iter().any(|word| line.contains(word));
        self.text
            .lines()
            .enumerate()
            .filter(hit)
            .map(|(at, line)| format!("{}:{} {}", self.path, at + 1, line.trim()))
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("readable")) {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        match path.is_dir() {
            true if hidden || name == "target" || name == "node_modules" => {}
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    TREES.iter().for_each(|tree| walk(&Path::new(ROOT).join(tree), &mut found));
    found.sort();
    let rust = found.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let sources: Vec<_> = rust
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("UTF-8"),
            path: path.strip_prefix(ROOT).expect("below the root").to_string_lossy().into_owned(),
        })
        .collect();
    assert!(sources.len() > 20, "the tree was not found");
    sources
}

/// Every manifest: its path from the root, and its content.
fn manifests() -> Vec<(String, Table)> {
    let read = |folder: &str| {
        let path = Path::new(ROOT).join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (folder.to_owned(), text.parse::<Table>().expect("TOML"))
    };
    let (root, manifest) = read("");
    let members = manifest["workspace"]["members"].as_array().expect("a list").clone();
    let members = members.iter().map(|member| read(member.as_str().expect("a path")));
    members.chain([(root, manifest.clone())]).collect()
}

/// Name and declaration of everything that a manifest imports, tests and build scripts included.
fn dependencies(manifest: &Table) -> impl Iterator<Item = (&String, &Value)> {
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    kinds.into_iter().filter_map(|kind| manifest.get(kind)?.as_table()).flatten()
}

/// Whether a dependency is part of what is delivered, and not of tests only.
fn in_product(manifest: &Table, dependency: &str) -> bool {
    manifest.get("dependencies").is_some_and(|list| list.get(dependency).is_some())
}

fn name(manifest: &Table) -> &str {
    manifest["package"]["name"].as_str().expect("a name")
}

fn none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let broken =
        sources().into_iter().filter(|source| !source.text.starts_with("//!")).map(|source| source.path);
    none(broken.collect(), "a file opens with `//!`: what it is, why it exists, what it must never do");
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > MOST_LINES).then(|| format!("{} has {lines}", source.path))
    });
    none(long.collect(), "at most 500 lines");
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let empty = sources().into_iter().map(|source| source.path).filter(|path| {
        let parts = path.trim_end_matches(".rs").split('/');
        parts.into_iter().any(|part| EMPTY_NAMES.contains(&part))
    });
    none(empty.collect(), "a module is named for what it holds");
}

#[test]
fn the_top_level_stays_as_it_is() {
    let ignored = fs::read_to_string(Path::new(ROOT).join(".gitignore")).expect("there is one");
    let known = |name: &str| {
        name.starts_with('.')
            || TOP.contains(&name)
            || ignored.lines().any(|line| line.trim_matches('/') == name)
    };
    let entries = fs::read_dir(ROOT).expect("the root").map(|entry| entry.expect("readable").file_name());
    let strange = entries.map(|name| name.to_string_lossy().into_owned()).filter(|name| !known(name));
    none(strange.collect(), "nothing is added at the top");
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let mut broken = Vec::new();
    for (_, manifest) in manifests() {
        let importer = name(&manifest);
        let Some((_, allowed)) = IMPORTS.iter().find(|(known, _)| *known == importer) else {
            broken.push(format!("{importer} is new: say here what it may import"));
            continue;
        };
        // Tests of any crate may talk to the simulated backend.
        let tests = |name: &str| name == "obleth-upstream" && !in_product(&manifest, name);
        let ours = dependencies(&manifest).map(|(name, _)| name);
        let ours = ours.filter(|name| name.starts_with("obleth") && !tests(name));
        broken.extend(
            ours.filter(|name| !allowed.contains(&name.as_str())).map(|name| format!("{importer} → {name}")),
        );
    }
    none(broken, "imports point downwards, and the data plane and the sidecar never see each other");
}

#[test]
fn only_the_data_plane_names_its_runtime() {
    let mut broken = Vec::new();
    for (folder, manifest) in manifests() {
        // Load generators are not part of the product.
        if folder == "core/proxy" || folder == "perf" || folder.starts_with("perf/") {
            continue;
        }
        let runtime = dependencies(&manifest).filter(|(name, _)| name.starts_with("monoio"));
        broken.extend(runtime.map(|(dependency, _)| format!("{} → {dependency}", name(&manifest))));
    }
    let tokio = ["core/policy", "core/wire", "core/link", "core/proxy"];
    for (folder, manifest) in manifests().into_iter().filter(|(folder, _)| tokio.contains(&folder.as_str())) {
        broken.extend(
            dependencies(&manifest).filter(|(name, _)| *name == "tokio").map(|_| format!("{folder} → tokio")),
        );
    }
    none(broken, "monoio belongs to core/proxy, tokio to the sidecar");
}

#[test]
fn versions_stand_in_one_place_and_default_features_are_off() {
    let mut broken = Vec::new();
    for (folder, manifest) in manifests() {
        for (dependency, declared) in dependencies(&manifest) {
            let inherited = declared.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherited || declared.get("version").is_some() {
                broken.push(format!("{folder}/Cargo.toml: {dependency}"));
            }
        }
        let shared = manifest.get("workspace").and_then(|workspace| workspace.get("dependencies"));
        for (dependency, declared) in shared.and_then(Value::as_table).into_iter().flatten() {
            let off = declared.get("default-features").and_then(Value::as_bool) == Some(false);
            if declared.get("path").is_none() && !off {
                broken.push(format!("workspace: {dependency} has its default features on"));
            }
        }
    }
    none(broken, "`name.workspace = true`; the version and `default-features = false` in the workspace");
}

#[test]
fn every_crate_is_held_to_the_workspaces_lints() {
    let free = manifests().into_iter().filter(|(_, manifest)| {
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        lints.and_then(Value::as_bool) != Some(true)
    });
    none(free.map(|(folder, _)| folder).collect(), "`[lints] workspace = true`");
}

#[test]
fn unsafe_code_is_allowed_in_named_files_only() {
    let words = [concat!("allow(unsafe", "_code)"), concat!("expect(unsafe", "_code)")];
    let sources = sources();
    let strange = sources.iter().filter(|source| !UNSAFE.contains(&source.path.as_str()));
    none(strange.flat_map(|source| source.lines_with(&words)).collect(), "no unsafe outside the list");
}

#[test]
fn only_binaries_and_tests_write_to_the_standard_streams() {
    let words = [concat!("print", "ln!("), concat!("print", "!("), concat!("dbg", "!(")];
    let sources = sources();
    let libraries = sources.iter().filter(|s| (s.is_in("core") || s.is_in("admin")) && !s.is_test());
    none(
        libraries.flat_map(|source| source.lines_with(&words)).collect(),
        "libraries log, they do not print",
    );
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let words = [concat!("env::", "var"), concat!("env::", "set_var")];
    let sources = sources();
    let strange = sources
        .iter()
        .filter(|s| !s.path.starts_with("src/config") && !s.path.ends_with("build.rs") && !s.is_test());
    none(
        strange.flat_map(|source| source.lines_with(&words)).collect(),
        "a setting is a row of src/config/table.rs",
    );
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK:")];
    let sources = sources();
    none(sources.iter().flat_map(|source| source.lines_with(&words)).collect(), "do it, or leave it out");
}

#[test]
fn comments_are_words_and_not_drawings() {
    let drawn = |line: &str| {
        let Some((_, comment)) = line.split_once("//") else { return false };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        ["====", "----", "####", "****", "~~~~"]
            .iter()
            .any(|run| comment.starts_with(run) || comment.ends_with(run))
    };
    let mut broken = Vec::new();
    for source in sources() {
        let lines = source.text.lines().enumerate().filter(|(_, line)| drawn(line));
        broken.extend(lines.map(|(at, line)| format!("{}:{} {}", source.path, at + 1, line.trim())));
    }
    none(broken, "no banners");
}

#[test]
fn unit_tests_do_not_sleep() {
    let sleep = concat!("thread::", "sleep(");
    let mut broken = Vec::new();
    // Tests of whole processes and shards measure spans in which nothing happens; those of functions have none.
    let inside = |source: &Source| source.path.contains("src/") && !source.is_in("perf");
    for source in sources().into_iter().filter(inside) {
        let tests = match (source.is_test(), source.text.find("#[cfg(test)]\nmod tests {")) {
            (true, _) => &source.text[..],
            (false, Some(at)) => &source.text[at..],
            (false, None) => continue,
        };
        broken.extend(
            tests.lines().filter(|line| line.contains(sleep)).map(|line| format!("{}: {line}", source.path)),
        );
    }
    none(broken, "a test waits for what it tests, not for time");
}

#[test]
fn the_ci_runs_the_readmes_test_command_and_nothing_else() {
    let script = fs::read_to_string(Path::new(ROOT).join(".ci/run")).expect("there is one");
    let does = script.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let does: Vec<_> = does.collect();
    assert_eq!(does, ["set -euo pipefail", "cd \"$(dirname \"$0\")/..\"", "exec tests/run \"$@\""]);
}
