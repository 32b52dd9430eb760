//! What a whole process tree has used: processor time, memory, voluntary switches, and how long it had to wait.
//!
//! It reads what the kernel counts in `/proc` (proc(5)). It must never count a thread twice, nor forget a worker: nginx's master does nothing.

use std::{fs, iter::Sum, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail};

/// Places in `stat`: the parent, and how nice a thread is.
const PARENT: usize = 1;
const NICE: usize = 16;

/// A process and its descendants.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: u32,
}

/// What has been used since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time, nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Time in which a thread could have run and had no processor, nanoseconds; of those that are not nice, for a nice one
    /// gives way to the others by its own will, on a quiet machine too.
    pub(crate) waited_ns: u64,
    /// Times a thread went to sleep by itself.
    pub(crate) switches: u64,
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, one| Self {
            cpu_ns: sum.cpu_ns + one.cpu_ns,
            waited_ns: sum.waited_ns + one.waited_ns,
            switches: sum.switches + one.switches,
        })
    }
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Resident, with shared pages divided among those who share them.
    pub(crate) pss: u64,
}

impl Tree {
    pub(crate) fn of(root: u32) -> Self {
        Self { root }
    }

    /// # Errors
    /// The process is gone, or the kernel does not count (`CONFIG_SCHEDSTATS`).
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for pid in self.pids()? {
            // A thread that ends in between has no files any more; what it used is lost to both readings.
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
                let schedule = read("schedstat");
                let mut times = schedule.split_whitespace().map_while(|field| field.parse::<u64>().ok());
                usage.cpu_ns += times.next().unwrap_or_default();
                let waited_ns = times.next().unwrap_or_default();
                if stat(&read("stat"), NICE).is_some_and(|nice: i64| nice <= 0) {
                    usage.waited_ns += waited_ns;
                }
                usage.switches += field(&read("status"), "voluntary_ctxt_switches:").unwrap_or_default();
            }
        }
        if usage.cpu_ns == 0 {
            bail!("the kernel does not count the time of process {}", self.root);
        }
        Ok(usage)
    }

    /// # Errors
    /// The process is gone.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in self.pids()? {
            let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            memory.rss += field(&text, "Rss:").unwrap_or_default() * 1024;
            memory.pss += field(&text, "Pss:").unwrap_or_default() * 1024;
        }
        if memory.rss == 0 {
            bail!("the kernel does not say the memory of process {}", self.root);
        }
        Ok(memory)
    }

    /// The root and its descendants.
    fn pids(&self) -> Result<Vec<u32>> {
        let mut family = vec![self.root];
        let parents = parents()?;
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        Ok(family)
    }
}

/// Every process and its parent.
fn parents() -> Result<Vec<(u32, u32)>> {
    let entries = fs::read_dir("/proc").context("no /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter_map(|pid| Some((pid, parent(pid)?))).collect())
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    stat(&text, PARENT)
}

/// A field of `stat`, counted from the state, which is the third.
fn stat<T: FromStr>(text: &str, field: usize) -> Option<T> {
    // The name in parentheses may hold anything, parentheses too.
    let behind = text.get(text.rfind(')')? + 1..)?;
    behind.split_whitespace().nth(field)?.parse().ok()
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| first_number(line.strip_prefix(name)?))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_that_looks_like_fields() {
        let text = "7 (a) R 2 (b)) S 41 7 7 0 -1 64 1 2 3 4 5 6 7 8 39 19 4 0 99";
        assert_eq!((stat(text, PARENT), stat(text, NICE)), (Some(41), Some(19)));
    }

    #[test]
    fn a_tree_counts_its_own_work_and_that_of_its_children() {
        // The child says when it has worked, and then waits to be read before it ends.
        let work = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $$; read end";
        let script = format!("sh -c '{work}'; exit");
        let mut parent = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut child).unwrap();
        let child = Tree::of(child.trim().parse().unwrap()).usage().unwrap();
        let tree = Tree::of(parent.id());
        let all = tree.usage().unwrap();
        assert_eq!(tree.pids().unwrap().len(), 2);
        assert!(child.cpu_ns > 1_000_000, "{child:?}");
        assert!(all.cpu_ns > child.cpu_ns, "{all:?} {child:?}");
        let memory = tree.memory().unwrap();
        assert!(memory.rss > memory.pss && memory.pss > 0, "{memory:?}");
        drop(parent.stdin.take());
        parent.wait().unwrap();
    }
}
