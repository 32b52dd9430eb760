//! The committed corpus against every target's check: seeds written by hand, inputs the engine found worth keeping, and
//! inputs that once showed a defect.
//!
//! It exists so that a defect that was found once is looked for with every `cargo test`, without the engine.

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

use obleth_fuzz::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Every input of a target, with its path.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

#[test]
fn every_input_that_was_kept_passes() {
    let mut broken = Vec::new();
    for target in &TARGETS {
        for (path, input) in inputs(target.name) {
            if panic::catch_unwind(|| (target.check)(&input)).is_err() {
                broken.push(path.display().to_string());
            }
        }
    }
    assert!(broken.is_empty(), "run `obleth-fuzz TARGET FILE` for each:\n{}", broken.join("\n"));
}

#[test]
fn every_target_has_seeds_and_every_folder_a_target() {
    for target in &TARGETS {
        assert!(inputs(target.name).len() >= 5, "{} has too little to begin with", target.name);
    }
    let folders = fs::read_dir(corpus()).expect("the corpus").map(|entry| entry.expect("readable"));
    for folder in folders {
        let name = folder.file_name().into_string().expect("UTF-8");
        assert!(obleth_fuzz::find(&name).is_some(), "no target is called {name}");
    }
}

#[test]
fn the_corpus_stays_small() {
    let inputs: Vec<_> = TARGETS.iter().flat_map(|target| inputs(target.name)).collect();
    let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
    assert!(inputs.len() <= 300 && bytes <= 1 << 20, "{} files with {bytes} bytes", inputs.len());
}
