//! Backends that cannot be trusted, or that break TLS's rules: refused, told apart, passed by, and never believed.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use obleth_upstream::{Handle, Options};
use serde_json::json;

use super::{
    authority::{Authority, Issued},
    faults::assert_broken_off,
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

fn under(issued: &Issued) -> Handle {
    obleth_upstream::spawn(Options { tls: Some(issued.tls()), ..Options::default() }).unwrap()
}

#[test]
fn a_backend_that_cannot_be_trusted_is_passed_by_and_the_cause_is_logged_once() {
    let (authority, other) = (Authority::new(), Authority::new());
    let plain = obleth_upstream::spawn(Options::default()).unwrap();
    let cases = [
        ("unknown", under(&other.issue(&["127.0.0.1"], false)), "UnknownIssuer"),
        ("misnamed", under(&authority.issue(&["10.0.0.1", "other.example"], false)), "not valid for name"),
        ("expired", under(&authority.issue(&["127.0.0.1"], true)), "certificate expired"),
        ("plain", plain, "corrupt message"),
    ];
    let world = World::with(authority.setup().cores(1), Options::default());
    for (name, sim, cause) in &cases {
        let bad = json!({"name": "bad", "api_base": format!("https://{}", sim.addr)});
        let good = json!({"name": "good", "api_base": world.sim.url()});
        world.new_model(name, json!({"endpoints": [bad]}));
        let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], name, ""));
        for _ in 0..3 {
            assert_refused(&world.ask(&request), "upstream_unreachable");
        }
        let log = world.gateway.stderr();
        assert_eq!(log.matches(cause).count(), 1, "{name}: {log}");
        let both = format!("{name}-both");
        world.new_model(&both, json!({"endpoints": [bad, good]}));
        let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], &both, "")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(sim.counters.stats().requests, 0);
    }
}

#[test]
fn without_a_file_of_authorities_the_systems_are_trusted_and_no_other() {
    let authority = Authority::new();
    let world = World::with(Setup::new(), Options { tls: Some(authority.tls()), ..Options::default() });
    assert_refused(&world.ask(&world.chat("")), "upstream_unreachable");
    assert_eq!(world.sim().requests, 0);
}

#[test]
fn a_backend_that_accepts_and_says_nothing_costs_the_connect_limit_and_is_passed_by() {
    // Never accepted here: the kernel does it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("https://{}", silent.local_addr().unwrap());
    let authority = Authority::new();
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(authority.setup().driver(driver), Options::default());
        let timeouts = json!({"connect_ms": 300});
        world.new_model("silent", json!({"api_base": silent, "timeouts": timeouts}));
        let begun = Instant::now();
        assert_refused(
            &world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "silent", ""))),
            "upstream_unreachable",
        );
        let took = begun.elapsed();
        assert!((Duration::from_millis(295)..Duration::from_millis(900)).contains(&took), "{took:?}");
        let endpoints =
            json!([{"name": "a", "api_base": silent}, {"name": "b", "api_base": world.sim.url()}]);
        world.new_model("both", json!({"endpoints": endpoints, "timeouts": timeouts}));
        let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "both", "")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut leaver = world.connect();
        leaver.send(world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "silent", "")).bytes());
        until("it waits for the handshake", || world.gateway.metric("obleth_in_flight") == 1.0);
        leaver.reset();
        world.until_idle();
        world.assert_unharmed();
    }
}

const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"id\":\"x\",\"choices\":[]}";
const EVENTS_UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {\"choices\":[]}\n\n";

#[test]
fn a_body_that_runs_until_the_close_ends_with_tlss_goodbye_and_not_without() {
    let authority = Authority::new();
    let world = World::with(authority.setup(), Options::default());
    let answering = |answer: &'static [u8], polite: bool| {
        let addr = authority.serve(move |mut line| {
            if line.request().is_some() && line.send(answer) && polite {
                line.goodbye();
            }
        });
        let name = format!("m{}", addr.port());
        world.new_model(&name, json!({"api_base": format!("https://{addr}")}));
        name
    };
    let ask =
        |name: &str, more: &str| world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], name, more)));
    let whole = ask(&answering(UNTIL_CLOSE, true), "");
    assert_eq!((whole.status, whole.text().as_str()), (200, r#"{"id":"x","choices":[]}"#));
    assert_refused(&ask(&answering(UNTIL_CLOSE, false), ""), "upstream_cut");
    assert_broken_off(&ask(&answering(EVENTS_UNTIL_CLOSE, false), r#","stream":true"#), "upstream_cut");
}

#[test]
fn what_a_backend_sends_unasked_never_becomes_the_answer_to_the_next_request() {
    // An answer that fills one read exactly, and more behind it in the same record.
    const READ: usize = 8 * 1024;
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length:4}\r\n\r\n")
    };
    let length = READ - head(0).len();
    let fitting = head(length) + &format!("{{\"id\":\"{}\"}}", "x".repeat(length - 9));
    assert_eq!(fitting.len(), READ);
    let unasked = fitting.clone() + &head(13) + "{\"id\":\"evil\"}";
    let authority = Authority::new();
    for driver in [Driver::Uring, Driver::Epoll] {
        for goodbye in [false, true] {
            let (fitting, unasked) = (fitting.clone(), unasked.clone());
            let addr = authority.serve(move |mut line| {
                while line.request().is_some() {
                    if goodbye {
                        line.send(fitting.as_bytes());
                        line.goodbye();
                        return line.linger();
                    }
                    line.send(unasked.as_bytes());
                }
            });
            let world = World::with(authority.setup().cores(1).driver(driver), Options::default());
            world.new_model("eager", json!({"api_base": format!("https://{addr}")}));
            let mut connection = world.connect();
            for _ in 0..10 {
                let answer = connection.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "eager", "")));
                assert_eq!((answer.status, answer.body.len()), (200, length), "{}", answer.text());
            }
        }
    }
}

#[test]
fn a_backend_that_refuses_a_large_body_under_tls_is_heard() {
    let authority = Authority::new();
    let addr = authority.serve(|mut line| {
        line.send(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        line.goodbye();
        line.linger();
    });
    let world = World::with(authority.setup(), Options::default());
    world.new_model("small", json!({"api_base": format!("https://{addr}")}));
    let body = body_of(ENDPOINTS[0], "small", "").replace("say", &"say ".repeat(500_000));
    let answer = world.ask(&world.post(ENDPOINTS[0], body));
    assert_eq!((answer.status, answer.code().as_str()), (413, "upstream_rejected"));
}

#[test]
fn a_credential_is_not_kept_for_the_same_host_without_tls() {
    let world = World::start();
    let id = world.new_model("moving", json!({"api_base": "https://127.0.0.1:443", "api_key": "sk-up"}));
    let moved = json!({"api_base": "http://127.0.0.1:443"});
    let request =
        super::http::Request::post(&format!("/api/v1/models/{id}"), moved.to_string()).method("PATCH");
    let answer = request.key(super::process::ADMIN_TOKEN).to(world.gateway.admin);
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("api_key")));
    assert_eq!(world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, ""))).status, 200);
}

/// nginx with a certificate, in front of a plain backend. Ends with the test.
pub(crate) struct Nginx {
    pub(crate) addr: SocketAddr,
    child: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// `None` where there is no nginx.
    pub(crate) fn start(authority: &Authority, backend: SocketAddr) -> Option<Self> {
        Command::new("nginx").arg("-v").stderr(Stdio::null()).status().ok()?;
        let folder = tempfile::tempdir().unwrap();
        let issued = authority.issue(&["127.0.0.1"], false);
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("cert.pem"), issued.certificate).unwrap();
        std::fs::write(path("key.pem"), issued.key).unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "daemon off; master_process off; pid {pid}; error_log {errors}; events {{}} http {{ \
             log_format each '$connection'; access_log {log} each; \
             client_body_temp_path {body}; proxy_temp_path {proxy}; fastcgi_temp_path {proxy}; \
             uwsgi_temp_path {proxy}; scgi_temp_path {proxy}; \
             server {{ listen {addr} ssl; ssl_certificate {cert}; ssl_certificate_key {key}; \
             location / {{ proxy_pass http://{backend}; proxy_http_version 1.1; proxy_buffering off; }} }} }}",
            pid = path("pid"),
            errors = path("errors"),
            log = path("log"),
            body = path("body"),
            proxy = path("proxy"),
            cert = path("cert.pem"),
            key = path("key.pem"),
        );
        std::fs::write(path("nginx.conf"), config).unwrap();
        let child =
            Command::new("nginx").args(["-e", &path("errors"), "-c", &path("nginx.conf")]).spawn().unwrap();
        let this = Self { addr, child, folder };
        until("nginx listens", || std::net::TcpStream::connect(addr).is_ok());
        Some(this)
    }

    /// Connections that carried requests.
    pub(crate) fn connections(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines().collect::<std::collections::HashSet<_>>().len()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
