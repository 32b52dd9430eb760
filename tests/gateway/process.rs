//! The gateway as a process: started with a folder and ports of its own, ended by its pid.
//!
//! It exists so that no test waits for a port or a time: a gateway is there once it has said that it is ready.
//! A gateway that outlives its test would be a fault of this file.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The admin token that every gateway of these tests is given.
pub(crate) const ADMIN_TOKEN: &str = "obleth_admin_0123456789abcdef0123456789abcdef";

/// What the shards run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// io_uring, where the kernel has it.
    Uring,
    /// epoll, forced.
    Epoll,
}

/// How a gateway is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    cores: u32,
    driver: Driver,
    env: Vec<(String, String)>,
    args: Vec<String>,
    data_dir: Option<PathBuf>,
}

impl Setup {
    /// Two shards on io_uring, everything else as it is by default.
    pub(crate) fn new() -> Self {
        Self { cores: 2, driver: Driver::Uring, env: Vec::new(), args: Vec::new(), data_dir: None }
    }

    pub(crate) fn cores(self, cores: u32) -> Self {
        Self { cores, ..self }
    }

    pub(crate) fn driver(self, driver: Driver) -> Self {
        Self { driver, ..self }
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an argument of its command line.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Uses a folder that outlives the gateway.
    pub(crate) fn data_dir(self, dir: &Path) -> Self {
        Self { data_dir: Some(dir.to_owned()), ..self }
    }

    /// Starts a gateway and waits until it is ready.
    pub(crate) fn start(self) -> Gateway {
        match self.launch() {
            Launched::Ready(gateway) => gateway,
            Launched::Ended { status, stderr, .. } => panic!("the gateway ended with {status}: {stderr}"),
        }
    }

    /// Starts a gateway and waits until it is ready or has ended.
    pub(crate) fn launch(self) -> Launched {
        let own = tempfile::tempdir().unwrap();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| own.path().join("data"));
        let mut child = self.command(own.path(), &data_dir).spawn().unwrap();
        let (stdout, lines) = read_lines(child.stdout.take().unwrap());
        let (stderr, _) = read_lines(child.stderr.take().unwrap());
        let mut running = Running { child, readers: vec![stdout.reader, stderr.reader], data_dir, _own: own };
        let (stdout, stderr) = (stdout.text, stderr.text);
        let started = Instant::now();
        while let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
            if let Some((data, admin, metrics)) = ready(&line) {
                return Launched::Ready(Gateway {
                    data,
                    admin,
                    metrics,
                    stdout,
                    stderr,
                    running: Some(running),
                });
            }
        }
        let status = running.wait(PATIENCE);
        let text = |of: &Arc<Mutex<String>>| of.lock().unwrap().clone();
        let status =
            status.unwrap_or_else(|| panic!("neither ready nor ended: {}{}", text(&stdout), text(&stderr)));
        running.join();
        Launched::Ended { status, stdout: text(&stdout), stderr: text(&stderr) }
    }

    /// Starts a gateway and kills it so long after, ready or not.
    pub(crate) fn killed_after(self, life: Duration) {
        let own = tempfile::tempdir().unwrap();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| own.path().join("data"));
        let mut command = self.command(own.path(), &data_dir);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn command(&self, own: &Path, data_dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obleth"));
        command
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", own)
            .env("TMPDIR", own)
            .env("OBLETH_CORES", self.cores.to_string())
            .env("OBLETH_ADMIN_TOKEN", ADMIN_TOKEN)
            // Room for every crowd; tests of the queue make their own pools small.
            .env("OBLETH_GLOBAL_MAX_IN_FLIGHT", "100000")
            .env("OBLETH_DEFAULT_MODEL_MAX_IN_FLIGHT", "10000")
            .current_dir(own)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for listener in ["PROXY", "ADMIN", "METRICS"] {
            command.env(format!("OBLETH_{listener}_LISTEN"), "127.0.0.1:0");
        }
        if self.driver == Driver::Epoll {
            command.env("MONOIO_FORCE_LEGACY_DRIVER", "1");
        }
        if !self.args.iter().any(|arg| arg == "--demo") {
            command.arg("--data-dir").arg(data_dir);
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What became of a start.
pub(crate) enum Launched {
    /// It serves.
    Ready(Gateway),
    /// It gave up.
    Ended { status: ExitStatus, stdout: String, stderr: String },
}

/// The addresses in the line that says that everything listens.
fn ready(line: &str) -> Option<(SocketAddr, SocketAddr, SocketAddr)> {
    if !line.contains(" ready: ") {
        return None;
    }
    let mut urls = line.split("http://").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && !".:[]".contains(c)).unwrap_or(rest.len());
        rest.get(..end)?.parse::<SocketAddr>().ok()
    });
    Some((urls.next()?, urls.next()?, urls.next()?))
}

struct Lines {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// Collects what a pipe brings, and passes each line on.
fn read_lines(pipe: impl Read + Send + 'static) -> (Lines, Receiver<String>) {
    let text = Arc::<Mutex<String>>::default();
    let (send, lines) = channel();
    let into = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            writeln!(into.lock().unwrap(), "{line}").unwrap();
            // Nobody listens any more once the gateway is ready.
            let _ = send.send(line);
        }
    });
    (Lines { text, reader }, lines)
}

struct Running {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    data_dir: PathBuf,
    _own: tempfile::TempDir,
}

impl Running {
    /// The status once it has ended, if it does so in time.
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }
}

/// A gateway that serves. Killed when dropped.
pub(crate) struct Gateway {
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    running: Option<Running>,
}

impl Gateway {
    /// What it has said on standard output.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// What it has said on standard error.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Where its files are.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.running.as_ref().unwrap().data_dir
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.running.as_ref().unwrap().child.id()).unwrap()
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Memory that it has resident, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.pid();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = self.running.as_mut().unwrap().wait(PATIENCE);
        status.unwrap_or_else(|| panic!("the gateway does not end: {}", self.stderr()))
    }

    /// Whether it is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.running.as_mut().unwrap().child.try_wait().unwrap().is_none()
    }

    /// Ends it as an operator does, and gives its data folder back for another start.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let ended = running.child.try_wait().ok().flatten();
        drop(running);
        if std::thread::panicking() {
            if let Some(status) = ended {
                println!("--- the gateway ended before its test: {status}");
            }
            println!("--- its standard output:\n{}", self.stdout());
            println!("--- its standard error:\n{}", self.stderr());
        }
    }
}

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `holds`; fails with `claim` if it does not come true.
#[track_caller]
pub(crate) fn until(claim: &str, holds: impl FnMut() -> bool) {
    until_within(PATIENCE, claim, holds);
}

/// As [`until`], of what may take this long.
#[track_caller]
pub(crate) fn until_within(patience: Duration, claim: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {claim}");
        std::thread::sleep(POLL);
    }
}
