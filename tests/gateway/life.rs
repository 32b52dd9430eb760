//! The process: how it starts beside another one, how it drains, what the demo prints, what stays on disk.

use std::{
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use rustix::process::Signal;

use super::{
    http::{Connection, End, Request},
    process::{ADMIN_TOKEN, Driver, Launched, Setup, until},
    world::{World, page},
};

/// A start that fails: its code, and one line on standard error that says all `words`.
#[track_caller]
fn assert_fails(setup: Setup, code: i32, words: &[&str]) {
    let Launched::Ended { status, stdout, stderr } = setup.launch() else { panic!("it started") };
    assert_eq!(status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one line: {stderr}");
    assert_eq!(stdout, "");
    for word in words {
        assert!(stderr.contains(word), "{word} in {stderr}");
    }
}

/// A start that fails with one line and some code for a service manager.
#[track_caller]
fn assert_ends_in_range(setup: Setup) {
    let Launched::Ended { status, stderr, .. } = setup.launch() else { panic!("it started") };
    assert!((64..=78).contains(&status.code().unwrap_or(0)), "{status} {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one line: {stderr}");
}

#[test]
fn a_port_or_a_folder_in_use_is_one_line_and_a_code() {
    let first = Setup::new().start();
    for (listener, address) in [("PROXY", first.data), ("ADMIN", first.admin), ("METRICS", first.metrics)] {
        let setup = Setup::new().env(&format!("OBLETH_{listener}_LISTEN"), address);
        assert_fails(setup, 69, &[&address.to_string()]);
    }
    assert_fails(Setup::new().data_dir(first.data_dir()), 75, &[]);
    assert_eq!(page(first.data, "/health").status, 200, "the first one is not disturbed");
}

#[test]
fn a_store_that_cannot_be_used_is_one_line_and_a_code() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert!(Setup::new().data_dir(&data).start().stop().success());
    let other_key = Setup::new().data_dir(&data).env("OBLETH_MASTER_KEY", "ab".repeat(32));
    assert_fails(other_key, 78, &["key"]);
    for file in ["obleth.db-wal", "obleth.db-shm"] {
        let _ = std::fs::remove_file(data.join(file));
    }
    std::fs::write(data.join("obleth.db"), "this is not a database, whatever its name says. ".repeat(100))
        .unwrap();
    assert_ends_in_range(Setup::new().data_dir(&data));
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert_ends_in_range(Setup::new().data_dir(&dir.path().join("file")));
}

#[test]
fn what_was_made_is_there_after_a_restart_and_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let sim = obleth_upstream::spawn(Options::default()).unwrap();
    let world = World::around(Setup::new().data_dir(&data).start(), sim);
    assert_eq!(world.ask(&world.chat("")).status, 200);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![data.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let (inner, here): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(here);
    }
    for path in files {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        for secret in [&world.secret, ADMIN_TOKEN] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "{}",
                path.display()
            );
        }
    }
    let World { sim, gateway, secret, tenant_id, key_id, model_id } = world;
    assert!(gateway.stop().success());
    let gateway = Setup::new().data_dir(&data).start();
    let world = World { sim, gateway, secret, tenant_id, key_id, model_id };
    assert_eq!(world.ask(&world.chat("")).status, 200);
}

#[test]
fn a_drain_lets_running_streams_finish_and_takes_nothing_new() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(Setup::new().driver(driver), Options::default());
        let mut idle: Vec<Connection> = (0..8).map(|_| world.connect()).collect();
        for connection in &mut idle {
            assert_eq!(connection.ask(&Request::get("/health")).status, 200);
        }
        let mut streams: Vec<Connection> = (0..8)
            .map(|_| {
                let mut connection = world.connect();
                let paced =
                    world.chat(r#","stream":true"#).header("x-sim-tps", 30).header("x-sim-tokens", 45);
                connection.send(paced.bytes());
                connection.read_until("\"content\":\"Hello");
                connection
            })
            .collect();
        world.gateway.signal(Signal::TERM);
        for connection in &mut idle {
            assert!(connection.is_closed(), "an idle connection is closed at once");
        }
        until("nothing new is taken", || {
            let Ok(mut connection) = Connection::try_open(world.gateway.data) else { return true };
            let _ = connection.try_send(Request::get("/health").bytes());
            connection.try_response().is_none_or(|answer| answer.status == 503)
        });
        assert!(world.gateway.is_running());
        for stream in &mut streams {
            let answer = stream.response();
            assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
            assert_eq!(answer.end, End::Complete);
            assert!(stream.is_closed());
        }
        let finished = Instant::now();
        assert!(world.gateway.wait().success());
        assert!(finished.elapsed() < Duration::from_secs(4), "{:?}", finished.elapsed());
        assert_eq!((world.sim().aborted, world.sim().completed), (0, 8));
    }
}

#[test]
fn a_drain_is_alive_though_the_shards_without_requests_have_ended() {
    let mut world = World::with(Setup::new().cores(4), Options::default());
    let mut stream = world.connect();
    stream.send(world.chat(r#","stream":true"#).header("x-sim-tps", 10).header("x-sim-tokens", 15).bytes());
    stream.read_until("\"content\":\"Hello");
    world.gateway.signal(Signal::TERM);
    until("it is not ready any more", || page(world.gateway.metrics, "/readyz").status == 503);
    for _ in 0..5 {
        let alive = page(world.gateway.metrics, "/livez");
        assert_eq!(alive.status, 200, "{}", alive.text());
    }
    assert!(stream.response().text().ends_with("data: [DONE]\n\n"));
    assert!(world.gateway.wait().success());
}

#[test]
fn a_drain_that_takes_too_long_breaks_off_what_is_left() {
    let setup = Setup::new().env("OBLETH_DRAIN_TIMEOUT_SECS", 1);
    let mut world = World::with(setup, Options::default());
    let mut stream = world.connect();
    stream.send(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens").bytes());
    stream.read_until("\"content\":\"Hello");
    let begun = Instant::now();
    world.gateway.signal(Signal::TERM);
    let answer = stream.response();
    super::faults::assert_broken_off(&answer, "draining");
    assert!(world.gateway.wait().success());
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(6));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut world = World::start();
    let mut stream = world.connect();
    stream.send(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens").bytes());
    stream.read_until("\"content\":\"Hello");
    world.gateway.signal(Signal::TERM);
    until("it drains", || world.gateway.stderr().contains("draining"));
    world.gateway.signal(Signal::TERM);
    let status: ExitStatus = world.gateway.wait();
    assert!(status.code() == Some(143) || status.signal() == Some(15), "{status}");
}

#[test]
fn a_connection_made_while_it_drains_is_not_left_hanging() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(Setup::new().cores(4).driver(driver), Options::default());
        let mut stream = world.connect();
        stream
            .send(world.chat(r#","stream":true"#).header("x-sim-tps", 10).header("x-sim-tokens", 50).bytes());
        stream.read_until("\"content\":\"Hello");
        world.gateway.signal(Signal::TERM);
        let begun = Instant::now();
        let mut made = Vec::new();
        while begun.elapsed() < Duration::from_millis(300) && made.len() < 1000 {
            let Ok(mut connection) = Connection::try_open(world.gateway.data) else { continue };
            connection.try_send(Request::get("/health").bytes());
            made.push(connection);
        }
        // Where a listener closes under a handshake, it takes the kernel's retransmissions, about a second, until the
        // client knows. Nobody waits for the end of the process; some are still served.
        let connected = Instant::now();
        for connection in &mut made {
            assert!(connection.try_response().is_none_or(|answer| [200, 503].contains(&answer.status)));
        }
        assert!(connected.elapsed() < Duration::from_secs(2), "{:?}", connected.elapsed());
        assert!(stream.response().text().ends_with("data: [DONE]\n\n"));
        assert!(world.gateway.wait().success());
    }
}

#[test]
fn the_lines_that_the_demo_prints_work_as_they_stand() {
    let gateway = Setup::new().arg("--demo").start();
    let lines = || -> Vec<String> {
        gateway
            .stdout()
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("curl "))
            .map(str::to_owned)
            .collect()
    };
    until("two lines to try", || lines().len() >= 2);
    for line in lines() {
        let ran = Command::new("bash")
            .args(["-c", &format!("{line} -sS -w '\\n%{{http_code}}'")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && said.ends_with("\n200"), "{line}\n{said}{ran:?}");
        let streamed = line.contains("\"stream\":true");
        assert_eq!(said.contains("data: [DONE]"), streamed, "{said}");
        assert!(streamed || said.contains("\"choices\""), "{said}");
    }
    assert!(!gateway.stdout().contains(ADMIN_TOKEN) && !gateway.stderr().contains("sk_"));
    assert!(gateway.stop().success());
}

#[test]
fn an_idle_gateway_uses_no_processor_time() {
    let gateway = Setup::new().cores(2).start();
    assert_eq!(page(gateway.data, "/health").status, 200);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // What is tested is what happens in a span of time in which nothing happens.
    let before = ticks();
    std::thread::sleep(Duration::from_secs(3));
    assert!(ticks() - before <= 2, "{} ticks in 3 s", ticks() - before);
}
