//! Row 5: how often a shard enters the kernel per request, counted by somebody else.
//!
//! Counting makes every system call dearer, so these runs are of their own and nothing else is read from them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::{Asked, Group, body, measure, plan, values, void};
use crate::{
    process::{self, Process, Start},
    processors::{self, Placement},
    rounds::{Figures, Wanted, interleave},
    rows::{ENTERS_32, ENTERS_256, Finding},
    scenario::{self, Chat},
    signals,
    subject::{self, Subject},
};

/// What is counted.
const CALL: &str = "io_uring_enter";
/// How long a counter may take to attach before requests are sent. One that is late counts too few.
const ATTACH: Duration = Duration::from_millis(500);

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// `perf stat` on the kernel's tracepoint: nearly free.
    Perf,
    /// `strace -c`: stops the process at every call, which makes batches larger than they are.
    Strace,
}

impl Counter {
    /// The best that works here.
    fn choose(asked: &Asked) -> Result<Self> {
        const HINT: &str =
            "neither perf nor strace can count system calls: apt-get install linux-perf, and run as root";
        let works = |counter: &Self| {
            counter.attach(std::process::id(), asked).and_then(|counting| counting.finish()).is_ok()
        };
        [Self::Perf, Self::Strace].into_iter().find(works).context(HINT)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
        }
    }

    /// Begins to count.
    fn attach(self, pid: u32, asked: &Asked) -> Result<Counting> {
        let program = process::find(self.name()).with_context(|| format!("no {}", self.name()))?;
        let output = asked.folder.join("enters");
        let (pid, file) = (pid.to_string(), output.display().to_string());
        let event = format!("syscalls:sys_enter_{CALL}");
        let trace = format!("trace={CALL}");
        let args: Vec<&str> = match self {
            Self::Perf => vec!["stat", "-x", ",", "-o", &file, "-e", &event, "-p", &pid],
            Self::Strace => vec!["-f", "-c", "-o", &file, "-e", &trace, "-p", &pid],
        };
        let process = Process::start(&Start {
            name: self.name(),
            program: &program,
            args: args.into_iter().map(str::to_owned).collect(),
            env: Vec::new(),
            processors: &asked.processors,
            folder: &asked.folder,
        })?;
        signals::wait(ATTACH)?;
        Ok(Counting { counter: self, process, output })
    }
}

/// A counter at work.
struct Counting {
    counter: Counter,
    process: Process,
    output: std::path::PathBuf,
}

impl Counting {
    /// Stops counting, and gives the count.
    fn finish(mut self) -> Result<u64> {
        self.process.stop(Signal::INT);
        let text = std::fs::read_to_string(&self.output).with_context(|| {
            format!("{} counted nothing: {}", self.counter.name(), self.process.last_error())
        })?;
        let _ = std::fs::remove_file(&self.output);
        count(self.counter, &text).with_context(|| format!("{} counted nothing", self.counter.name()))
    }
}

/// The count in a counter's report.
fn count(counter: Counter, text: &str) -> Option<u64> {
    match counter {
        Counter::Perf => {
            let line = text.lines().find(|line| line.contains(CALL))?;
            line.split(',').next()?.parse().ok()
        }
        // "% time, seconds, usecs/call, calls, errors, syscall"; without a line there were no calls.
        Counter::Strace => match text.lines().find(|line| line.trim_end().ends_with(CALL)) {
            Some(line) => line.split_whitespace().nth(3)?.parse().ok(),
            None => Some(0),
        },
    }
}

pub(super) fn run(asked: &Asked) -> Result<Vec<Group>> {
    let scenario: Chat = scenario::read(&asked.scenarios, "chat")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let rows = [(32, ENTERS_32), (256, ENTERS_256)];
    let counter = match Counter::choose(asked) {
        Ok(counter) => counter,
        Err(why) => {
            let why = Some(format!("{why:#}"));
            let findings = rows.map(|(_, row)| Finding::new(row, []).with_remark(why.clone())).into();
            return Ok(vec![Group {
                name: "enters".to_owned(),
                rounds: Vec::new(),
                findings,
                distributions: Vec::new(),
            }]);
        }
    };
    let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
    let obleth = asked.site(&placement, &backend).obleth("obleth", 1)?;
    let body = body(scenario.exchange, false);
    let mut groups = Vec::new();
    for (connections, row) in rows {
        let name = format!("enters, {connections} connections");
        let wanted = Wanted { title: &name, rounds: repeat.rounds, steady: "none" };
        let rounds = interleave(
            &wanted,
            &[&obleth],
            |subject: &&Subject| subject.name.as_str(),
            |_, subject| {
                let counting = counter.attach(subject.pid(), asked)?;
                let mut plan = plan(subject, &body, &[], repeat);
                plan.connections = connections;
                let (outcome, _) = measure(subject, &plan)?;
                let count = counting.finish()?;
                if count == 0 {
                    bail!("{} saw no {CALL}; does obleth run on epoll here?", counter.name());
                }
                let per_request = count as f64 / outcome.all as f64;
                Ok(Figures::from([("enters", per_request), ("requests", outcome.all as f64)]))
            },
        )?;
        let counted = values(&rounds, |round| round.get("obleth", "enters"));
        let by = void(&rounds).unwrap_or_else(|| format!("counted by {}", counter.name()));
        let findings = vec![Finding::new(row, counted).with_remark(Some(by))];
        groups.push(Group { name, rounds, findings, distributions: Vec::new() });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_either_report() {
        let perf = "# started on Fri\n\n92361,,syscalls:sys_enter_io_uring_enter,3500123456,100.00,,\n";
        assert_eq!(count(Counter::Perf, perf), Some(92_361));
        assert_eq!(count(Counter::Perf, "<not counted>,,syscalls:sys_enter_io_uring_enter,0,0,,\n"), None);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.123456           3     41152        12 io_uring_enter\n\
                      100.00    0.123456           3     41152        12 total\n";
        assert_eq!(count(Counter::Strace, strace), Some(41_152));
        assert_eq!(count(Counter::Strace, ""), Some(0));
    }
}
