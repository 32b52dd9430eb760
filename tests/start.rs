//! Starting and stopping the real process: what it says, which code it ends with, what it leaves behind.
//!
//! Every process listens on port 0 and lives in a folder of its own, so that tests run side by side.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

const FRESH_PORTS: [&str; 6] =
    ["--proxy-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];

/// The binary in an empty environment, in a folder of its own.
fn obleth(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obleth"));
    command.env_clear().env("TMPDIR", home).current_dir(home).stdin(Stdio::null());
    command
}

/// A failed run: its code and its one line.
fn refusal(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "one line, not: {said}");
    assert!(output.stdout.is_empty(), "nothing on standard output");
    (output.status.code().expect("a code"), said)
}

/// A running gateway. Killed on drop.
struct Gateway {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Lines in front of the ready line.
    before: Vec<String>,
    proxy: String,
    admin: String,
    metrics: String,
}

impl Gateway {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .args(FRESH_PORTS)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut before = Vec::new();
        loop {
            let mut line = String::new();
            if out.read_line(&mut line).expect("readable") == 0 {
                let mut said = String::new();
                child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
                panic!("it ended before it was ready: {said}");
            }
            let Some((_, addresses)) = line.split_once(" ready: ") else {
                before.push(line);
                continue;
            };
            let mut urls =
                addresses.trim().split(", ").map(|part| part.rsplit("http://").next().expect("a part"));
            let mut url = || urls.next().expect("three addresses").to_owned();
            let (proxy, admin, metrics) = (url(), url(), url());
            return Self { child, out, before, proxy, admin, metrics };
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Its code once it is gone.
    fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request as it stands and reads until the connection closes.
fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn get(address: &str, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("a folder").next().is_none()
}

#[test]
fn check_tells_every_fault_and_leaves_no_trace() {
    let home = tempfile::tempdir().unwrap();
    let fine = obleth(home.path()).arg("check").output().unwrap();
    assert_eq!(fine.status.code(), Some(0));
    assert!(is_empty(home.path()));
    let file = home.path().join("o.toml");
    fs::write(&file, "croes = 2\n").unwrap();
    for command in [&["check", "--config", "o.toml"][..], &["--config", "o.toml", "--validate"]] {
        let bad = obleth(home.path()).args(command).env("OBLETH_FAIL_OPEN", "perhaps").output().unwrap();
        let said = String::from_utf8(bad.stderr).unwrap();
        assert_eq!(bad.status.code(), Some(64), "{said}");
        assert!(said.contains("o.toml:1 croes: is no setting; did you mean `cores`?"), "{said}");
        assert!(said.contains("OBLETH_FAIL_OPEN: `perhaps` is not a boolean"), "{said}");
    }
    fs::remove_file(file).unwrap();
    assert!(is_empty(home.path()), "check wrote something");
}

#[test]
fn an_unknown_variable_is_told_and_does_not_stop_anything() {
    let home = tempfile::tempdir().unwrap();
    let output = obleth(home.path()).arg("check").env("OBLETH_CROES", "2").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(said.contains("did you mean OBLETH_CORES?"), "{said}");
}

#[test]
fn what_is_wrong_with_the_command_or_the_configuration_is_64_and_a_missing_file_66() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], variable: (&str, &str)| {
        refusal(&obleth(home.path()).args(arguments).env(variable.0, variable.1).output().unwrap())
    };
    let none = ("X", "");
    assert_eq!(run(&["--dmeo"], none).0, 64);
    assert_eq!(run(&["serf"], none).0, 64);
    assert_eq!(run(&["serve", "--cores", "0"], none).0, 64);
    assert_eq!(run(&["serve"], ("OBLETH_ADMIN_TOKEN", "secret")).0, 64);
    let (code, said) = run(&["serve"], ("OBLETH_DATABASE_URL", "postgres://u:hunter2@h/d"));
    assert!(
        code == 64 && said.contains("Postgres is not in this version") && !said.contains("hunter2"),
        "{said}"
    );
    let (code, said) = run(&["serve"], ("OBLETH_TLS_KEY", "/k"));
    assert!(code == 64 && said.contains("OBLETH_TLS_KEY: is not in this version"), "{said}");
    let (code, said) = run(&["serve"], ("OBLETH_UPSTREAM_CA_FILE", "/nowhere.pem"));
    assert!(code == 64 && said.contains("OBLETH_UPSTREAM_CA_FILE: cannot read /nowhere.pem"), "{said}");
    assert_eq!(run(&["serve", "--config", "nowhere.toml"], none).0, 66);
    assert!(is_empty(home.path()), "a refused start wrote something");
}

#[test]
fn a_port_in_use_is_69_and_names_the_setting() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (at, name) in [(1, "OBLETH_PROXY_LISTEN"), (3, "OBLETH_ADMIN_LISTEN"), (5, "OBLETH_METRICS_LISTEN")] {
        let mut ports = FRESH_PORTS;
        ports[at] = &taken;
        let (code, said) = refusal(&obleth(home.path()).arg("serve").args(ports).output().unwrap());
        assert!(code == 69 && said.contains(name) && said.contains(&taken), "{said}");
    }
    let (code, said) = refusal(
        &obleth(home.path())
            .args(["serve", "--demo"])
            .args(["--proxy-listen", "192.0.2.1:80"])
            .output()
            .unwrap(),
    );
    assert!(code == 69, "{said}");
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["obleth-data"], "the demo's folder is gone");
}

#[test]
fn a_folder_in_use_is_75_and_its_owner_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(obleth(home.path()).arg("serve"));
    let (code, said) = refusal(&obleth(home.path()).arg("serve").args(FRESH_PORTS).output().unwrap());
    assert!(code == 75 && said.contains("in use by another obleth process"), "{said}");
    assert!(get(&gateway.proxy, "/health").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_data_folder_that_cannot_be_or_does_not_fit_has_its_own_code() {
    let home = tempfile::tempdir().unwrap();
    let run = |folder: &str| {
        let output = obleth(home.path()).args(["serve", "--data-dir", folder]).args(FRESH_PORTS).output();
        refusal(&output.unwrap())
    };
    let put = |name: &str, text: &str, mode: u32| {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("file", "", 0o600);
    let (code, said) = run("file/folder");
    assert_eq!(code, 73, "{said}");

    put("open/admin-token", "0123456789abcdef", 0o644);
    let (code, said) = run("open");
    assert!(code == 77 && said.contains("chmod 600"), "{said}");

    put("weak/admin-token", "hunter2", 0o600);
    let (code, said) = run("weak");
    assert!(code == 78 && said.contains("holds no admin token") && !said.contains("hunter2"), "{said}");

    put("garbled/master-key", "not a key", 0o600);
    let (code, said) = run("garbled");
    assert!(code == 78 && !said.contains("not a key"), "{said}");

    put("keyless/obleth.db", "", 0o600);
    let (code, said) = run("keyless");
    assert!(code == 78 && said.contains("OBLETH_MASTER_KEY"), "{said}");

    put("foreign/master-key", &"0f".repeat(32), 0o600);
    put("foreign/obleth.db", &"no database at all ".repeat(100), 0o600);
    let (code, said) = run("foreign");
    assert!(code == 78 && said.contains("not an obleth database"), "{said}");
}

#[test]
fn a_full_disk_is_74_and_leaves_no_half_a_secret() {
    let home = tempfile::tempdir().unwrap();
    // A process that may write no byte meets what a full disk shows, an error in the middle of a write.
    let script =
        format!("trap '' XFSZ; ulimit -f 0; exec {} serve --demo --data-dir d", env!("CARGO_BIN_EXE_obleth"));
    let output =
        Command::new("/bin/sh").args(["-c", &script]).current_dir(home.path()).env_clear().output().unwrap();
    let (code, said) = refusal(&output);
    assert_eq!(code, 74, "{said}");
    let left: Vec<_> = fs::read_dir(home.path().join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_start_says_where_the_token_is_and_never_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("obleth-data");
    let first = Gateway::start(obleth(home.path()).arg("serve"));
    assert_eq!(mode(&folder), 0o700);
    for name in ["admin-token", "master-key", "obleth.db", "lock"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    let token = fs::read_to_string(folder.join("admin-token")).unwrap();
    let first_said = first.before.clone();
    assert_eq!(first_said.len(), 1);
    assert!(first.before[0].contains("obleth-data/admin-token") && !first.before[0].contains(token.trim()));
    let ask = |gateway: &Gateway| {
        let request = format!(
            "GET /api/v1/stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        exchange(&gateway.admin, &request)
    };
    assert!(ask(&first).starts_with("HTTP/1.1 200"));
    first.signal(Signal::TERM);
    assert_eq!(first.ended(), Some(0));

    let second = Gateway::start(&mut obleth(home.path()));
    assert_eq!(second.before, first_said);
    assert!(ask(&second).starts_with("HTTP/1.1 200"));
    assert_eq!(fs::read_to_string(folder.join("admin-token")).unwrap(), token);
}

#[test]
fn all_listeners_answer_once_it_says_ready() {
    let home = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(obleth(home.path()).args(["serve", "--demo", "--cores", "2"]));
    assert!(get(&gateway.proxy, "/health").starts_with("HTTP/1.1 200"));
    assert!(get(&gateway.admin, "/api/v1/health").starts_with("HTTP/1.1 200"));
    for path in ["/metrics", "/livez", "/readyz"] {
        assert!(get(&gateway.metrics, path).starts_with("HTTP/1.1 200"), "{path}");
    }
}

#[test]
fn shards_are_named_and_pinned_and_may_open_all_descriptors_that_the_system_allows() {
    let home = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(obleth(home.path()).args(["serve", "--demo", "--cores", "8"]));
    let process = format!("/proc/{}", gateway.child.id());
    let mut shards = Vec::new();
    for task in fs::read_dir(format!("{process}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("in every status");
            line[name.len() + 1..].trim().to_owned()
        };
        if field("Name").starts_with("obleth-shard-") {
            assert!(field("Cpus_allowed_list").parse::<u32>().is_ok(), "one processor: {status}");
            shards.push(field("Name"));
        }
    }
    shards.sort();
    assert_eq!(shards, (0..8).map(|shard| format!("obleth-shard-{shard}")).collect::<Vec<_>>());
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let files: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "soft is hard");
}

#[test]
fn sigint_ends_a_demo_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(obleth(home.path()).args(["serve", "--demo"]));
    assert!(!is_empty(home.path()));
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended(), Some(0));
    assert!(is_empty(home.path()));
}

#[test]
fn sigterm_does_not_wait_for_idle_clients() {
    let home = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(obleth(home.path()).args(["serve", "--demo"]));
    let mut idle = TcpStream::connect(&gateway.proxy).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut start = [0; 15];
    idle.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_what_is_in_flight() {
    let home = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(obleth(home.path()).args(["serve", "--demo"]));
    let mut line = String::new();
    while !line.starts_with("curl ") {
        line.clear();
        assert_ne!(gateway.out.read_line(&mut line).unwrap(), 0);
    }
    let quoted: Vec<_> = line.split('\'').collect();
    let mut waiting = TcpStream::connect(&gateway.proxy).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-sim-latency-ms: 600000";
    let (header, body) = (quoted[1], quoted[3]);
    write!(waiting, "{head}\r\n{header}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    while !get(&gateway.metrics, "/metrics").contains("\nobleth_in_flight 1\n") {}
    gateway.signal(Signal::TERM);
    let mut log = BufReader::new(gateway.child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("draining")));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended(), Some(143));
    assert!(is_empty(home.path()), "the demo's folder is gone");
}

#[test]
fn the_readmes_table_is_the_one_that_the_program_reads() {
    let home = tempfile::tempdir().unwrap();
    let table = obleth(home.path()).args(["check", "--settings"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().count() > 20);
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("there is one");
    let shown =
        readme.split("<!-- settings -->").nth(1).and_then(|rest| rest.split("<!-- /settings -->").next());
    let remedy = "put the output of `obleth check --settings` between the README's settings marks";
    assert_eq!(shown.map(str::trim), Some(table.trim()), "{remedy}");
}

#[test]
fn sim_upstream_listens_and_ends_on_a_signal() {
    let home = tempfile::tempdir().unwrap();
    let mut command = obleth(home.path());
    command.args(["sim-upstream", "--listen", "127.0.0.1:0", "--model", "m"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().unwrap().trim_end_matches("/v1").to_owned();
    let answer = get(&address, "/v1/models");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"m\""), "{answer}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn version_names_the_commit_and_help_is_no_fault() {
    let home = tempfile::tempdir().unwrap();
    let version = obleth(home.path()).arg("--version").output().unwrap();
    let said = String::from_utf8(version.stdout).unwrap();
    assert!(said.starts_with(concat!("obleth ", env!("CARGO_PKG_VERSION"), " (")), "{said}");
    let help = obleth(home.path()).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("sim-upstream"));
}
