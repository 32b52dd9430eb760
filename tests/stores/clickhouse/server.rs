//! A real ClickHouse as a process of its own: started, killed and started again on the same folder.
//!
//! Included by the tests that need one, of whatever crate. `tests/run` installs the library and says where it is in
//! `CLICKHOUSE_LIB`; without that variable there is none, and a test says so and ends. One test, one server. It must
//! never outlive the test.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The user that `serve.py` makes.
pub(crate) const USER: &str = "obleth";
/// Its password.
pub(crate) const PASSWORD: &str = "a password of the tests";
/// How long a server may take until it answers.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// See the module's text. On drop the process is killed and its folder removed.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    library: String,
    address: SocketAddr,
    process: Option<Child>,
}

impl Server {
    /// A server that is up, with nothing in it; `None`, with a word about it, where no library is to be had.
    pub(crate) fn start() -> Option<Self> {
        let mut server = Self::absent()?;
        server.up();
        Some(server)
    }

    /// A server that does not run yet; its address is known already.
    pub(crate) fn absent() -> Option<Self> {
        let Ok(library) = env::var("CLICKHOUSE_LIB") else {
            eprintln!("not tested: CLICKHOUSE_LIB names no library; tests/run installs it");
            return None;
        };
        assert!(Path::new(&library).is_file(), "CLICKHOUSE_LIB: there is no file {library}");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = free.local_addr().expect("bound");
        let folder = tempfile::tempdir().expect("a folder");
        Some(Self { folder, library, address, process: None })
    }

    /// Where it listens, as a setting.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process, as long as it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it on its folder, and returns when it answers.
    pub(crate) fn up(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/stores/clickhouse/serve.py");
        let output = fs::File::create(self.folder.path().join("output.log")).expect("a file");
        let child = Command::new("python3")
            .args([script, &self.library])
            .arg(self.folder.path())
            .args([&self.address.port().to_string(), PASSWORD])
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .expect("python3 is there");
        self.process = Some(child);
        let deadline = Instant::now() + UP_WITHIN;
        while !self.answers() {
            let child = self.process.as_mut().expect("just started");
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none() && Instant::now() < deadline, "no server: {}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may be dead already; then there is nothing to do.
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
    }

    /// Runs a statement with full rights, beside the code that is tested, and returns the answer's text.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let answer = self.post(sql).expect("the server answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{sql}: {body}");
        body.trim_end().to_owned()
    }

    /// A statement whose answer is one number.
    pub(crate) fn count(&self, sql: &str) -> u64 {
        self.ask(sql).parse().unwrap_or_else(|_| panic!("{sql} gives no number"))
    }

    fn post(&self, sql: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        // Version 1.0, so that the answer comes whole and ends with the connection.
        write!(
            stream,
            "POST / HTTP/1.0\r\nX-ClickHouse-User: {USER}\r\nX-ClickHouse-Key: {PASSWORD}\r\nContent-Length: {}\r\n\r\n{sql}",
            sql.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn answers(&self) -> bool {
        self.post("SELECT 1").is_ok_and(|answer| answer.contains(" 200 "))
    }

    fn words(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("output.log") + &read("error.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
