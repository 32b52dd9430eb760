//! Secrets are searched for in everything that a gateway says or keeps while it logs all it can.
//!
//! A run is varied on purpose: keys of every state in every header, malformed heads with keys in odd places,
//! backends that repeat their credential, an outage. What comes out is searched for every secret in every form
//! that it could be written in; the same searcher must find what is planted for it.

mod echo;
mod search;

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};

use self::{
    echo::Echo,
    search::{Haystack, Needle},
};
use super::{
    http::{Connection, Request, Response},
    process::{ADMIN_TOKEN, Driver, Gateway, Setup, until},
    store_outage::toggle_tables,
    world::{ENDPOINTS, World, body_of, chat, page},
};

const UPSTREAM_DEFAULT: &str = "sk-upstream-default-5eJ8+w/Zq4x=7Yd2LkT";
const UPSTREAM_OWN: &str = "sk-upstream-own-9vB3nQ+6mR/1sHf4Ac8Wu0Kp";
const UPSTREAM_NEXT: &str = "sk-upstream-next-2xC7tG5yE9jM3bV6zN1aLd4";
const PEPPER: &str = "pepper-8fQ2kZ6vX1nB4mT7rW9cJ3hL5dS0gY";
const MASTER_KEY: &str = "9f1c3a5e7b2d4f608192a3b4c5d6e7f80a1b2c3d4e5f60718293a4b5c6d7e8f9";
const WRONG_TOKEN: &str = "obleth_admin_wrong_7dK3pV9xQ2mZ6nB4tR8w";
const PASSWORD: &str = "hunter2-in-an-address-4Gk9Wm2Xz7Qp";

/// A run: the gateway, everything that came out of it, and what must not have.
struct Run {
    world: World,
    echo: Echo,
    outputs: Vec<(String, Vec<u8>)>,
    secrets: Vec<Needle>,
    /// Keys of callers, which no backend may get.
    keys: Vec<Needle>,
}

impl Run {
    fn start(driver: Driver, format: &str) -> Self {
        let echo = Echo::start();
        let setup = Setup::new()
            .driver(driver)
            .env("RUST_LOG", "trace")
            .env("OBLETH_LOG_FORMAT", format)
            .env("OBLETH_UPSTREAM_BASE_URL", format!("http://{}", echo.addr))
            .env("OBLETH_UPSTREAM_API_KEY", UPSTREAM_DEFAULT)
            .env("OBLETH_API_KEY_PEPPER", PEPPER)
            .env("OBLETH_MASTER_KEY", MASTER_KEY)
            .env("OBLETH_KEY_MAX_AGE_MS", 200);
        let world = World::with(setup, obleth_upstream::Options::default());
        let fixed = [
            UPSTREAM_DEFAULT,
            UPSTREAM_OWN,
            UPSTREAM_NEXT,
            PEPPER,
            MASTER_KEY,
            ADMIN_TOKEN,
            WRONG_TOKEN,
            PASSWORD,
        ];
        let mut secrets: Vec<Needle> = fixed.into_iter().map(Needle::new).collect();
        let master: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&MASTER_KEY[at * 2..at * 2 + 2], 16).unwrap()).collect();
        secrets.push(Needle::of_bytes("the master key", &master));
        let first = Needle::new(&world.secret);
        Self { world, echo, outputs: Vec::new(), secrets, keys: vec![first] }
    }

    fn keep(&mut self, what: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.outputs.push((what.into(), bytes.into()));
    }

    /// Keeps an answer as it came, head and body. Returns its status.
    fn answer(&mut self, what: impl Into<String>, answer: &Response) -> u16 {
        self.keep(what, answer.arrivals.iter().flat_map(|arrival| arrival.raw.clone()).collect::<Vec<u8>>());
        answer.status
    }

    /// A request to the data plane with a key that is remembered as one.
    fn ask(&mut self, what: &str, request: &Request) -> u16 {
        let answer = self.world.ask(request);
        self.answer(format!("{what}: {} {}", answer.status, answer.text()), &answer)
    }

    /// An admin call whose answer holds no secret.
    fn admin(&mut self, method: &str, path: &str, body: Option<Value>) -> u16 {
        let answer = self.world.gateway.api(method, path, body);
        self.answer(format!("{method} {path}"), &answer)
    }

    /// An admin call whose answer holds a new key: its id, and its secret.
    fn new_secret(&mut self, path: &str, body: Value) -> (String, String) {
        let made = self.world.gateway.post(path, body);
        assert_eq!(made.status, 201, "{}", made.text());
        let text = |member: &str| made.json()[member].as_str().unwrap().to_owned();
        let secret = text("secret");
        self.keys.push(Needle::new(&secret));
        (text("id"), secret)
    }

    fn wrong_key(&mut self) -> String {
        // Looks like a key, and like nothing else.
        let seed = (self.keys.len() as u64 + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rest = (seed.rotate_left(23) ^ 0x5bd1, seed.wrapping_mul(seed));
        let wrong = format!("sk_{seed:016x}{:016x}{:016x}", rest.0, rest.1);
        self.keys.push(Needle::new(&wrong));
        wrong
    }

    /// Sends bytes that are no request, and keeps what comes back.
    fn raw(&mut self, what: &str, bytes: &[u8]) {
        let mut connection = Connection::open(self.world.gateway.data);
        connection.send(bytes);
        connection.finish_sending();
        if let Some(answer) = connection.try_response() {
            self.answer(what, &answer);
        }
    }

    fn set_up(&mut self) -> String {
        let own = format!("http://{}", self.echo.addr);
        let model = json!({"model_name": "echo", "api_base": own, "api_key": UPSTREAM_OWN});
        assert_eq!(self.admin("POST", "/models", Some(model)), 201);
        assert_eq!(self.admin("POST", "/models", Some(json!({"model_name": "default-echo"}))), 201);
        let id = self.world.gateway.get("/models").json()[1]["id"].as_str().unwrap().to_owned();
        for (body, status) in [
            (json!({"api_base": format!("http://user:{PASSWORD}@127.0.0.1")}), 400),
            (json!({"api_base": "http://127.0.0.9:9"}), 400),
            (json!({"api_key": format!("{UPSTREAM_NEXT} with spaces")}), 400),
            (json!({"api_key": UPSTREAM_NEXT}), 200),
        ] {
            assert_eq!(self.admin("PATCH", &format!("/models/{id}"), Some(body)), status);
        }
        let token = |token: &str| Request::get("/api/v1/keys").key(token);
        for request in [
            token(WRONG_TOKEN),
            token(&self.world.secret),
            Request::get("/api/v1/keys").header("authorization", format!("Basic {WRONG_TOKEN}")),
            Request::get(&format!("/api/v1/keys/{}", self.world.secret)).key(ADMIN_TOKEN),
            Request::get(&format!("/api/v1/keys?after={}", self.world.secret)).key(ADMIN_TOKEN),
            Request::get(&format!("/{ADMIN_TOKEN}")),
            Request::post("/api/v1/keys", format!("{{{}", self.world.secret)).key(ADMIN_TOKEN),
            Request::post("/api/v1/keys", json!({"tenant_id": self.world.secret, "name": "x"}).to_string())
                .key(ADMIN_TOKEN),
        ] {
            let refused = request.to(self.world.gateway.admin);
            assert!(refused.status >= 400);
            self.answer("admin refusal", &refused);
        }
        id
    }

    /// Keys in every state and header.
    fn use_keys(&mut self) {
        let secret = self.world.secret.clone();
        let path = format!("/tenants/{}/keys", self.world.tenant_id);
        let (id, second) = self.new_secret(&path, json!({"name": "second"}));
        let (_, third) = self.new_secret(&format!("/keys/{id}/rotate"), json!({"grace_secs": 600}));
        let rotate = format!("/keys/{}/rotate", self.world.key_id);
        let (_, ended) = self.new_secret(&rotate, json!({"grace_secs": 600}));
        let (_, newest) = self.new_secret(&rotate, json!({"grace_secs": 0}));
        let plain = || Request::post(ENDPOINTS[0], chat(""));
        for (what, key, status) in [
            ("rotated away", &secret, 401),
            ("ended", &ended, 401),
            ("newest", &newest, 200),
            ("in grace", &second, 200),
            ("after it", &third, 200),
        ] {
            for request in
                [plain().key(key), plain().header("x-api-key", key), plain().header("api-key", key)]
            {
                assert_eq!(self.ask(what, &request), status, "{what}");
            }
        }
        let wrong = self.wrong_key();
        for (request, status) in [
            (plain().key(&wrong), 401),
            (plain().key(&wrong).header("x-api-key", &newest), 400),
            (plain().key(ADMIN_TOKEN), 401),
            (plain().key(UPSTREAM_OWN), 401),
            (plain().header("authorization", format!("Basic {newest}")), 401),
            (plain().header("authorization", &newest), 401),
            (plain().header("authorization", format!("Bearer Bearer {newest}")), 401),
            (plain().header("cookie", format!("key={newest}")), 401),
            (Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], &third, "")).key(&newest), 404),
            (Request::post(ENDPOINTS[0], format!("{{\"model\": {third}")).key(&newest), 400),
            (Request::post(ENDPOINTS[0], chat(&format!(",\"stream\":\"{third}\""))).key(&newest), 400),
            (Request::get("/v1/models").key(&newest), 200),
        ] {
            assert_eq!(self.ask("a wrong credential", &request), status);
        }
        for (body, code) in [
            (json!({"disabled": true}), 403),
            (json!({"disabled": false, "allowed_ips": []}), 403),
            (json!({"allowed_ips": null, "expires_at": "2020-01-01T00:00:00Z"}), 403),
            (json!({"expires_at": null}), 200),
        ] {
            assert_eq!(self.admin("PATCH", &format!("/keys/{}", self.world.key_id), Some(body)), 200);
            assert_eq!(self.ask("a refusal", &plain().key(&newest).header("cookie", &third)), code);
        }
        self.world.secret = newest;
    }

    /// Keys where none belongs, in heads that are none.
    fn malform(&mut self) {
        let secret = self.world.secret.clone();
        let auth = format!("Authorization: Bearer {secret}\r\n");
        for path in [
            format!("/v1/models?api_key={secret}"),
            format!("/v1/models/{secret}"),
            format!("/{secret}"),
            format!("/v1/{secret}/chat"),
            format!("/v1/models/%73{}", &secret[1..]),
        ] {
            self.ask("a key in the path", &Request::get(&path));
            self.ask("a key in the path", &Request::get(&path).key(&secret));
        }
        for head in [
            format!("GET /v1/models?k={secret} HTTP/1.1\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nHost: {secret}\r\n{auth}X: \x01\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nHost: a b {secret}\r\n\r\n"),
            format!("{secret} / HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET http://{secret}@host/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET /v1/models HTTP/{secret}\r\nHost: a\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {secret}\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n {secret}\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{secret}: x\r\n{secret}\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\nHost: a\n{auth}\n"),
            format!("POST {} HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: {secret}\r\n\r\n", ENDPOINTS[0]),
            format!("POST {} HTTP/1.1\r\nHost: a\r\n{auth}Transfer-Encoding: {secret}\r\n\r\n", ENDPOINTS[0]),
            format!(
                "POST {} HTTP/1.1\r\nHost: a\r\n{auth}Transfer-Encoding: chunked\r\n\r\n{secret}\r\n",
                ENDPOINTS[0]
            ),
            format!("POST {} HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: 99\r\n\r\n{secret}", ENDPOINTS[0]),
            format!("\x16\x03\x01{secret}\r\n\r\n"),
            format!("GET / HTTP/1.0\r\n{auth}\r\n"),
            format!("CONNECT {secret}:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            self.raw("a malformed head", head.as_bytes());
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", secret.repeat(200));
        self.raw("a long request line", long.as_bytes());
    }

    /// Backends that fail, with their credential on their lips.
    fn fail_upstream(&mut self) {
        for model in ["echo", "default-echo"] {
            for want in ["400", "401", "403", "404", "409", "422", "429", "500", "503", "garbage", "cut"] {
                for more in ["", ",\"stream\":true"] {
                    let request = self.world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], model, more));
                    let status = self.ask(
                        want,
                        &request.header("x-want", want).header("x-planted", "planted-for-backend"),
                    );
                    assert!(status >= 400, "{want}: {status}");
                }
            }
        }
    }

    /// A store that cannot answer.
    fn break_store(&mut self) {
        toggle_tables(&self.world);
        let (secret, wrong) = (self.world.secret.clone(), self.wrong_key());
        assert_eq!(self.ask("known in an outage", &self.world.chat("")), 200);
        assert_eq!(self.ask("unknown in an outage", &Request::get("/v1/models").key(&wrong)), 503);
        assert!(self.admin("GET", "/keys", None) >= 500);
        assert!(self.admin("POST", &format!("/keys/{}/rotate", self.world.key_id), None) >= 500);
        toggle_tables(&self.world);
        until("the store is well again", || page(self.world.gateway.admin, "/api/v1/health").status == 200);
        assert_eq!(self.ask("known again", &Request::get("/v1/models").key(&secret)), 200);
    }

    /// Everything that an operator can look at.
    fn look_around(&mut self) {
        for path in ["/health", "/stats", "/version", "/groups", "/tenants", "/keys", "/models"] {
            assert_eq!(self.admin("GET", path, None), 200);
        }
        for path in ["/api/openapi.json", "/api/docs"] {
            self.answer(path, &page(self.world.gateway.admin, path));
        }
        for path in ["/metrics", "/livez", "/readyz"] {
            self.answer(path, &page(self.world.gateway.metrics, path));
        }
        let files = files(self.world.gateway.data_dir());
        assert!(
            files.iter().any(|(name, _)| name.ends_with("-wal")),
            "{:?}",
            files.iter().map(|f| &f.0).collect::<Vec<_>>()
        );
        self.outputs.extend(files);
    }

    /// Ends the gateway, and searches.
    fn judge(mut self) {
        let planted = "planted-request-id";
        let refused = self.world.ask(&Request::get("/v1/models").header("x-request-id", planted));
        self.answer("a planted id", &refused);
        let heard = self.echo.heard.lock().unwrap().clone();
        let sim = self.world.sim.counters.last_request().head;
        let Self { world: World { mut gateway, sim: _sim, .. }, outputs, secrets, keys, .. } = self;
        let folder = gateway.data_dir().to_owned();
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().success());
        until("the last line is there", || gateway.stderr().contains("drained"));
        let mut outputs = outputs;
        outputs.extend(files(&folder));
        outputs.extend(streams(&gateway));
        let haystack = |found: &str| {
            let all = outputs.iter().filter(|(what, _)| what.contains(found));
            all.map(|(_, bytes)| Haystack::new(bytes)).collect::<Vec<_>>()
        };
        // What is searched is what was said: each kind of output holds what was put there to be found.
        for (output, there) in [
            ("standard error", planted),
            ("standard output", "ready"),
            ("/metrics", "obleth_in_flight"),
            ("obleth.db", "acme"),
            ("-wal", "acme"),
            ("GET /tenants", "acme"),
            ("admin refusal", "error"),
            ("a malformed head", "bad_request"),
            ("a planted id", planted),
            ("400: ", "[removed]"),
        ] {
            let needle = Needle::new(there);
            assert!(
                haystack(output).iter().any(|hay| !needle.found_in(hay).is_empty()),
                "{there} is not in {output}"
            );
        }
        let mut leaks = Vec::new();
        for (what, bytes) in &outputs {
            let hay = Haystack::new(bytes);
            for needle in secrets.iter().chain(&keys) {
                leaks.extend(
                    needle
                        .found_in(&hay)
                        .into_iter()
                        .map(|form| format!("{} as {form} in {what}", needle.name())),
                );
            }
        }
        for (who, heard) in [("the echoing backend", heard), ("the simulated backend", sim)] {
            let hay = Haystack::new(&heard);
            let planted = Needle::new("planted-for-backend");
            assert!(who.contains("simulated") || !planted.found_in(&hay).is_empty());
            for needle in &keys {
                leaks.extend(
                    needle
                        .found_in(&hay)
                        .into_iter()
                        .map(|form| format!("{} as {form} at {who}", needle.name())),
                );
            }
        }
        assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    }
}

/// Every file below a folder, but those whose only content is a secret.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !["admin-token", "master-key"].contains(&name.as_str()) {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

fn streams(gateway: &Gateway) -> [(String, Vec<u8>); 2] {
    [
        ("standard output".into(), gateway.stdout().into_bytes()),
        ("standard error".into(), gateway.stderr().into_bytes()),
    ]
}

fn no_secret_gets_out(driver: Driver, format: &str) {
    let mut run = Run::start(driver, format);
    run.set_up();
    run.use_keys();
    run.malform();
    run.fail_upstream();
    run.break_store();
    run.look_around();
    run.judge();
}

#[test]
fn no_secret_gets_out_on_io_uring() {
    no_secret_gets_out(Driver::Uring, "text");
}

#[test]
fn no_secret_gets_out_on_epoll() {
    no_secret_gets_out(Driver::Epoll, "json");
}
