//! The program from outside: a short comparison, its record, its end on a signal, and a generator that does not forgive.
//!
//! obleth is measured as it was built for these tests (`cargo test --workspace`, or `cargo build` before). Peers that
//! are not installed are said not to be; nothing here may be skipped because of that.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long something that should happen at once may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn perf(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obleth-perf"));
    command.env("TMPDIR", folder).stdin(Stdio::null());
    command
}

/// A scenario whose measurements take half a second.
fn scenarios(folder: &Path) -> PathBuf {
    let into = folder.join("scenarios");
    fs::create_dir(&into).unwrap();
    let chat = "connections = [32]\n[repeat]\nrounds = 1\nsecs = 0.4\nwarmup_secs = 0.1\n\
                [exchange]\nrequest_bytes = 900\nanswer_tokens = 100\n";
    fs::write(into.join("chat.toml"), chat).unwrap();
    into
}

fn compare(folder: &Path) -> Command {
    let mut command = perf(folder);
    command.args(["compare", "--rows", "1,3", "--scenarios"]).arg(scenarios(folder));
    command.arg("--results").arg(folder.join("results"));
    command
}

/// Processes that work in a folder below `folder`.
fn working_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_comparison_measures_obleth_and_the_floor_and_leaves_a_record_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = compare(folder.path()).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("| 3 | CPU per request ÷ floor, 32 connections |"), "{said}");
    assert_eq!(working_in(folder.path()), Vec::<String>::new());

    let results: Vec<_> = fs::read_dir(folder.path().join("results")).unwrap().flatten().collect();
    let of_kind = |kind: &str| {
        let path = results.iter().map(fs::DirEntry::path).find(|path| path.extension().unwrap() == kind);
        fs::read_to_string(path.unwrap_or_else(|| panic!("no .{kind}"))).unwrap()
    };
    let record: Value = serde_json::from_str(&of_kind("json")).unwrap();
    let row =
        |number: u64| record["rows"].as_array().unwrap().iter().find(|row| row["row"] == number).unwrap();
    assert!(row(3)["median"].as_f64().unwrap() > 0.0, "{said}");
    let remark = row(1)["remark"].as_str().unwrap_or_default();
    let haproxy = remark == "haproxy is not installed: apt-get install haproxy" || row(1)["median"].is_f64();
    assert!(haproxy, "{record:#}");
    let round = &record["scenarios"][0]["rounds"][0]["figures"];
    assert!(round["obleth"]["cpu_us"].as_f64().unwrap() > 0.0, "{round:#}");
    assert!(record["machine"]["command"].as_str().unwrap().contains("--rows 1,3"));
    assert!(of_kind("svg").contains("CPU per request ÷ floor"));
    assert!(of_kind("md").contains(record["machine"]["kernel"].as_str().unwrap()));
}

#[test]
fn a_signal_stops_everything_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = compare(folder.path())
        .args(["--secs", "600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    // obleth, its backend and the floor.
    while working_in(folder.path()).len() < 3 {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "nothing was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!status.success() && said.contains("interrupted"), "{said}");
    assert_eq!(working_in(folder.path()), Vec::<String>::new());
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["scenarios"], "the temporary folder is gone");
}

#[test]
fn a_program_that_is_not_there_is_named_with_the_command_that_builds_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = compare(folder.path()).args(["--obleth", "/nowhere/obleth"]).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("/nowhere/obleth: run `cargo build"), "{said}");
}

/// A server that answers each request of each connection with what `answer` makes of its number.
fn server(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let answer = Arc::new(answer);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || serve(client, &*answer));
        }
    });
    address
}

fn serve(client: TcpStream, answer: &dyn Fn(usize) -> Vec<u8>) {
    client.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(&client);
    for number in 0.. {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() || (&client).write_all(&answer(number)).is_err() {
            return;
        }
    }
}

fn ok() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_vec()
}

fn load(server: SocketAddr, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{server}/v1");
    perf(folder.path())
        .args(["load", "--url", &url, "--connections", "1", "--duration", "1", "--warmup", "0.1"])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_stall_is_felt_by_every_request_that_was_meant_to_leave_during_it() {
    // One answer comes 400 ms late; at 200 requests a second on one connection, some 80 others wait for it.
    let stalled = || {
        let (begin, stalled) = (OnceLock::new(), AtomicBool::new(false));
        server(move |_| {
            let elapsed = begin.get_or_init(Instant::now).elapsed();
            if elapsed >= Duration::from_millis(400) && !stalled.swap(true, Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(400));
            }
            ok()
        })
    };
    let output = load(stalled(), &["--rate", "200", "--arrivals", "uniform"]);
    let open: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert!(open["e2el"]["p90_ms"].as_f64().unwrap() > 200.0, "{open:#}");
    let closed: Value = serde_json::from_slice(&load(stalled(), &[]).stdout).unwrap();
    assert!(closed["e2el"]["p90_ms"].as_f64().unwrap() < 100.0, "a closed loop hides it: {closed:#}");
    assert!(closed["e2el"]["max_ms"].as_f64().unwrap() >= 400.0, "{closed:#}");
}

#[test]
fn a_refused_cut_or_unended_answer_ends_the_run() {
    let bad = |answer: &'static [u8]| server(move |number| if number < 5 { ok() } else { answer.to_vec() });
    let said = |answer| {
        let output = load(bad(answer), &["--stream"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output));
        text(&output)
    };
    let refused = said(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nslow");
    assert!(refused.contains("status 429: slow"), "{refused}");
    let unended =
        said(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 10\r\n\r\ndata: {}\n\n");
    assert!(unended.contains("without [DONE]"), "{unended}");
    let longer = said(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}{}");
    assert!(longer.contains("behind the end"), "{longer}");
}

#[test]
fn a_stream_is_timed_event_by_event_and_written_for_other_tools() {
    let backend = obleth_upstream::spawn(obleth_upstream::Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("run");
    let headers = ["--header", "x-sim-tps: 100", "--header", "x-sim-stamp: 1"];
    let output = perf(folder.path())
        .args(["load", "--stream", "--connections", "4", "--duration", "1", "--url"])
        .arg(format!("http://{}", backend.addr))
        .args(headers)
        .args(["--max-tokens", "20", "--out"])
        .arg(&prefix)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["e2el", "ttft", "itl", "tpot", "lateness"] {
        assert!(seen[name]["count"].as_u64().unwrap() > 0, "{name}: {seen:#}");
        assert!(fs::metadata(format!("{}-{name}.hgrm", prefix.display())).unwrap().len() > 0);
        assert!(fs::metadata(format!("{}-{name}.hlog", prefix.display())).unwrap().len() > 0);
    }
    let gap = seen["tpot"]["p50_ms"].as_f64().unwrap();
    assert!((5.0..50.0).contains(&gap), "events come every 10 ms: {seen:#}");
}
