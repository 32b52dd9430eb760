//! A ClickHouse that can be stopped and started again on its data: the one that the tests use, as a process.
//!
//! It ends when its standard input does, so it never outlives this program.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{http::Call, signals};

/// What starts a library as a server.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/stores/clickhouse/serve.py");
/// The user that it makes, and the password it is told.
const USER: &str = "obleth";
const PASSWORD: &str = "a-password-of-the-measurement";
/// How long it may take to start.
const START: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// See the module's text.
#[derive(Debug)]
pub(super) struct ClickHouse {
    library: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    process: Option<Child>,
}

impl ClickHouse {
    /// Starts one that has nothing in it. Its folder is made below `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(library: &Path, folder: &Path) -> Result<Self> {
        ensure!(library.is_file(), "there is no {}", library.display());
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = tempfile::tempdir_in(folder)?.keep();
        let mut server = Self { library: library.to_owned(), folder, address, process: None };
        server.up()?;
        Ok(server)
    }

    /// What a gateway has to know of it.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OBLETH_CLICKHOUSE_URL", format!("http://{}", self.address)),
            ("OBLETH_CLICKHOUSE_USER", USER.to_owned()),
            ("OBLETH_CLICKHOUSE_PASSWORD", PASSWORD.to_owned()),
        ]
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    /// It does not, in time.
    pub(super) fn up(&mut self) -> Result<()> {
        let output = File::create(self.folder.join("output.log"))?;
        let child = Command::new("python3")
            .args([Path::new(SCRIPT), &self.library, &self.folder])
            .args([&self.address.port().to_string(), PASSWORD])
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot run python3")?;
        let process = self.process.insert(child);
        let (since, ping) =
            (Instant::now(), Call { server: self.address, method: "GET", path: "/ping", token: "" });
        while ping.send("").is_err() {
            let running = process.try_wait()?.is_none();
            ensure!(
                running && since.elapsed() < START,
                "ClickHouse does not start: {}",
                self.folder.display()
            );
            signals::wait(LOOK)?;
        }
        Ok(())
    }

    /// Ends it at once, in the middle of whatever it does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may be dead already; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        self.kill();
    }
}
