//! A server under measurement, or one that a measurement needs: started pinned, stopped when dropped.
//!
//! It runs in a process group of its own, so that stopping reaches its workers and a Ctrl-C reaches only us. It must
//! never outlive the value.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{processors, signals};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// Where programs of the system are.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How to start a server. Its environment is empty but for what is given.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(&'a str, String)>,
    /// Processors it is kept on.
    pub(crate) processors: &'a [usize],
    /// Where its standard error goes.
    pub(crate) folder: &'a Path,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Process {
    /// Starts a server.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn start(start: &Start<'_>) -> Result<Self> {
        let errors = start.folder.join(format!("{}.stderr", start.name));
        let mut command = Command::new(start.program);
        command
            .args(&start.args)
            .env_clear()
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .current_dir(start.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .process_group(0);
        // A child inherits the processors of the thread that spawns it, and this thread keeps its own.
        let spawned = std::thread::scope(|scope| {
            let pinned = scope.spawn(|| -> Result<Child> {
                processors::pin(start.processors)?;
                command.spawn().with_context(|| format!("cannot run {}", start.program.display()))
            });
            pinned.join()
        });
        let Ok(child) = spawned else { bail!("the thread that starts {} died", start.name) };
        let mut child = child?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                // Reads on even when nobody listens, so that the pipe never fills.
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Ok(Self { name: start.name.to_owned(), child, lines, errors })
    }

    /// Waits for a line with `words` in it.
    ///
    /// # Errors
    /// It ended, or was silent for too long, or a signal came.
    pub(crate) fn line_with(&mut self, words: &str) -> Result<String> {
        let end = Instant::now() + START;
        while Instant::now() < end {
            signals::check()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) if line.contains(words) => return Ok(line),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        bail!("{} did not start: {}", self.name, self.last_error())
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// It ended, or was not ready for too long, or a signal came.
    pub(crate) fn until(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + START;
        while !ready() {
            if self.child.try_wait()?.is_some() || Instant::now() >= end {
                bail!("{} did not start: {}", self.name, self.last_error());
            }
            signals::wait(LOOK)?;
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop with this signal, and waits until it has.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let Some(group) = group.filter(|_| matches!(self.child.try_wait(), Ok(None))) else { return };
        // Fails only if the group is gone already.
        let _ = kill_process_group(group, signal);
        let end = Instant::now() + STOP;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The last thing it complained about.
    pub(crate) fn last_error(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        text.lines().next_back().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Signal::TERM);
    }
}

/// A program of the system, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let program = find("sh").unwrap();
        let args = vec!["-c".to_owned(), script.to_owned()];
        let processors = processors::allowed().unwrap();
        let start = Start {
            name: "shell",
            program: &program,
            args,
            env: Vec::new(),
            processors: &processors,
            folder,
        };
        Process::start(&start).unwrap()
    }

    #[test]
    fn a_dropped_process_is_gone_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 600 & echo child $!; wait", folder.path());
        let line = process.line_with("child").unwrap();
        let child = line.split(' ').nth(1).unwrap();
        let exists = |pid: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // An orphan that has ended may wait for its new parent to notice.
            !status.is_empty() && !status.contains(") Z ")
        };
        assert!(exists(child));
        let pid = process.pid().to_string();
        drop(process);
        assert!(!exists(&pid));
        let end = Instant::now() + START;
        while exists(child) {
            assert!(Instant::now() < end, "the child outlived its parent");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("echo the port is taken >&2; exit 3", folder.path());
        let error = process.line_with("ready").unwrap_err().to_string();
        assert_eq!(error, "shell did not start: the port is taken");
    }
}
