//! Where and of what a comparison was made: commit, machine, peers, command line.
//!
//! A figure without these cannot be repeated. What cannot be found out is `unknown`, never left out.

use std::{path::Path, process::Command};

use jiff::Timestamp;
use serde::Serialize;

use crate::peers::Peer;

/// What a record says about its circumstances.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// What obleth was built from.
    pub(crate) commit: String,
    /// When, UTC.
    time: String,
    command: String,
    processor: String,
    processors: usize,
    kernel: String,
    memory_mb: u64,
    obleth: String,
    nginx: String,
    haproxy: String,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// Looks around.
    pub(crate) fn look(obleth: &Path) -> Self {
        let version = said(obleth).unwrap_or_else(|| UNKNOWN.to_owned());
        let commit = version.split(['(', ')']).nth(1).unwrap_or(UNKNOWN).to_owned();
        let peer = |peer: Peer| peer.version().unwrap_or_else(|| "not installed".to_owned());
        let kernel = rustix::system::uname();
        Self {
            commit,
            time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            command: std::env::args().map(|word| without_folder(&word)).collect::<Vec<_>>().join(" "),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| UNKNOWN.to_owned()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.release().to_string_lossy().into_owned(),
            memory_mb: field("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text)).unwrap_or(0)
                / 1024,
            obleth: version,
            nginx: peer(Peer::Nginx),
            haproxy: peer(Peer::Haproxy),
        }
    }

    /// For the names of files: `2026-11-20-2231`.
    pub(crate) fn date_and_time(&self) -> String {
        self.time.replace('T', "-").replace(':', "").chars().take(15).collect()
    }

    /// One paragraph.
    pub(crate) fn markdown(&self) -> String {
        format!(
            "{}, {}, {}, on {} × {}, Linux {}, {} MB of memory, {}: `{}`\n",
            self.obleth,
            self.nginx,
            self.haproxy,
            self.processors,
            self.processor,
            self.kernel,
            self.memory_mb,
            self.time,
            self.command
        )
    }

    /// For the foot of a picture.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} · {} × {} · Linux {} · {}",
            self.obleth, self.processors, self.processor, self.kernel, self.time
        )
    }
}

/// A word of a command line without the folder it names: a record is read on other machines.
fn without_folder(word: &str) -> String {
    match word.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => word.to_owned(),
    }
}

fn said(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").env_clear().output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The value behind `name :` in a file of `/proc`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kilobytes(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_programs_and_not_folders() {
        let words = ["/home/me/target/release/obleth-perf", "compare", "--rows", "1,2"];
        assert_eq!(words.map(without_folder), ["obleth-perf", "compare", "--rows", "1,2"]);
    }

    #[test]
    fn what_the_kernel_says_is_found() {
        assert!(field("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text)).unwrap() > 1024);
        assert_eq!(field("/proc/meminfo", "NoSuchField"), None);
    }
}
