//! A gateway, a backend behind it, and one tenant with one key and one model: what most tests begin with.
//!
//! Everything is made through the admin API, as an operator does it. Nothing here knows how the gateway keeps it.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use obleth_upstream::{Handle, Options, Stats};
use serde_json::{Value, json};

use super::{
    http::{Connection, Request, Response},
    process::{ADMIN_TOKEN, Gateway, Setup, until},
};

/// The model that the backend serves, as clients name it.
pub(crate) const MODEL: &str = "tiny";

/// The endpoints that generate.
pub(crate) const ENDPOINTS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

/// The JSON of a request that every one of [`ENDPOINTS`] accepts, `more` being further members with commas
/// before them.
pub(crate) fn body_of(endpoint: &str, model: &str, more: &str) -> String {
    match endpoint {
        "/v1/chat/completions" => {
            format!(
                r#"{{"model":"{model}","messages":[{{"role":"user","content":"say three words"}}]{more}}}"#
            )
        }
        "/v1/completions" => format!(r#"{{"model":"{model}","prompt":"say three words"{more}}}"#),
        _ => format!(r#"{{"model":"{model}","input":["say three words","and two"]{more}}}"#),
    }
}

/// A chat request body for [`MODEL`].
pub(crate) fn chat(more: &str) -> String {
    body_of(ENDPOINTS[0], MODEL, more)
}

/// See the module's text.
pub(crate) struct World {
    pub(crate) sim: Handle,
    pub(crate) gateway: Gateway,
    pub(crate) tenant_id: String,
    pub(crate) key_id: String,
    pub(crate) secret: String,
    pub(crate) model_id: String,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with(Setup::new(), Options::default())
    }

    pub(crate) fn with(setup: Setup, options: Options) -> Self {
        let sim = obleth_upstream::spawn(options).unwrap();
        Self::around(setup.start(), sim)
    }

    /// Fills an empty gateway.
    pub(crate) fn around(gateway: Gateway, sim: Handle) -> Self {
        let tenant = created(gateway.post("/tenants", json!({"name": "acme"})));
        let tenant_id = id(&tenant);
        let key = created(gateway.post(&format!("/tenants/{tenant_id}/keys"), json!({"name": "first"})));
        let base = sim.url();
        let model = created(gateway.post("/models", json!({"model_name": MODEL, "api_base": base})));
        let secret = key["secret"].as_str().unwrap().to_owned();
        Self { sim, gateway, tenant_id, key_id: id(&key), secret, model_id: id(&model) }
    }

    /// Another key of the tenant: id and secret.
    pub(crate) fn new_key(&self, mut fields: Value) -> (String, String) {
        if fields["name"].is_null() {
            fields["name"] = format!("key of {}", self.sim.addr).into();
        }
        let key = created(self.gateway.post(&format!("/tenants/{}/keys", self.tenant_id), fields));
        (id(&key), key["secret"].as_str().unwrap().to_owned())
    }

    /// Rotates the key. Returns the new secret and when the old one ends, in Unix milliseconds.
    pub(crate) fn rotate(&self, grace_secs: u32) -> (String, Option<u128>) {
        let path = format!("/keys/{}/rotate", self.key_id);
        let key = created(self.gateway.post(&path, json!({"grace_secs": grace_secs})));
        let ends_at = key["previous_secret_ends_at"].as_str().map(unix_ms);
        (key["secret"].as_str().unwrap().to_owned(), ends_at)
    }

    /// Tries to rotate the key, and throws the new secret away.
    pub(crate) fn rotate_status(&self, grace_secs: u32) -> u16 {
        self.gateway.post(&format!("/keys/{}/rotate", self.key_id), json!({"grace_secs": grace_secs})).status
    }

    /// Another model on the same backend unless `fields` say otherwise. Returns its id.
    pub(crate) fn new_model(&self, name: &str, mut fields: Value) -> String {
        fields["model_name"] = name.into();
        if fields["api_base"].is_null() && fields["endpoints"].is_null() {
            fields["api_base"] = format!("{}/v1", self.sim.url()).into();
        }
        id(&created(self.gateway.post("/models", fields)))
    }

    /// A request with the key.
    pub(crate) fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Request {
        Request::post(path, body).key(&self.secret)
    }

    /// A chat request with the key.
    pub(crate) fn chat(&self, more: &str) -> Request {
        self.post(ENDPOINTS[0], chat(more))
    }

    /// A chat request with another key.
    pub(crate) fn chat_of(&self, secret: &str) -> Request {
        Request::post(ENDPOINTS[0], chat("")).key(secret)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.gateway.data)
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn ask(&self, request: &Request) -> Response {
        request.to(self.gateway.data)
    }

    /// What the backend counts.
    pub(crate) fn sim(&self) -> Stats {
        self.sim.counters.stats()
    }

    /// Changes the backend's behaviour.
    pub(crate) fn change_sim(&self, options: Value) {
        let changed = Request::post("/sim/options", options.to_string()).to(self.sim.addr);
        assert_eq!(changed.status, 200, "{}", changed.text());
    }

    /// Waits until nothing is in flight, neither here nor there.
    #[track_caller]
    pub(crate) fn until_idle(&self) {
        until("the gateway counts nothing in flight", || self.gateway.metric("obleth_in_flight") == 0.0);
        until("the backend generates nothing", || self.sim().active == 0);
    }

    /// The gateway answers, and none of its workers has died.
    #[track_caller]
    pub(crate) fn assert_unharmed(&mut self) {
        assert!(self.gateway.is_running());
        let answer = self.ask(&self.chat(""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(self.gateway.metric("obleth_worker_restarts_total"), 0.0);
    }
}

/// A time as the admin API shows it.
fn unix_ms(text: &str) -> u128 {
    let database = rusqlite::Connection::open_in_memory().unwrap();
    let sql = "SELECT CAST(round(unixepoch(?1, 'subsec') * 1000) AS INTEGER)";
    let at: i64 = database.query_row(sql, [text], |row| row.get(0)).unwrap();
    at.try_into().unwrap()
}

fn id(resource: &Value) -> String {
    resource["id"].as_str().expect("a resource has an id").to_owned()
}

#[track_caller]
fn created(response: Response) -> Value {
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()
}

impl Gateway {
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let path = format!("/api/v1{path}");
        let request = match body {
            Some(body) => Request::post(&path, body.to_string()).method(method),
            None => Request::new(method, &path),
        };
        request.key(ADMIN_TOKEN).to(self.admin)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.api("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Response {
        self.api("POST", path, Some(body))
    }

    /// Changes a resource, which must succeed.
    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: Value) {
        let changed = self.api("PUT", path, Some(body));
        assert_eq!(changed.status, 200, "{}", changed.text());
    }

    #[track_caller]
    pub(crate) fn patch(&self, path: &str, body: Value) {
        let changed = self.api("PATCH", path, Some(body));
        assert_eq!(changed.status, 200, "{}", changed.text());
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) {
        let deleted = self.api("DELETE", path, None);
        assert_eq!(deleted.status, 200, "{}", deleted.text());
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics_page(&self) -> String {
        page(self.metrics, "/metrics").text()
    }

    /// The value of a series, written as on the page, labels included; or, without labels, the sum of all its
    /// series. 0 if there is none.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = self.metrics_page();
        let samples =
            page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let wanted = samples.filter(|(name, _)| *name == series || name.split('{').next() == Some(series));
        wanted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    /// The sum of the series of a family that have all these labels, each as `name="value"`.
    pub(crate) fn labelled(&self, family: &str, labels: &[&str]) -> f64 {
        let page = self.metrics_page();
        let series = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(family)?.strip_prefix('{')?;
            let (have, value) = rest.split_once("} ")?;
            labels
                .iter()
                .all(|label| have.split(',').any(|known| known == *label))
                .then(|| value.parse::<f64>().ok())?
        });
        series.sum()
    }
}

/// A page of a listener that takes no credential.
pub(crate) fn page(address: SocketAddr, path: &str) -> Response {
    Request::get(path).to(address)
}

/// An address at which nobody listens, and nobody else can meanwhile.
pub(crate) struct Nobody {
    pub(crate) addr: SocketAddr,
    _bound: rustix::fd::OwnedFd,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { addr: getsockname(&bound).unwrap().try_into().unwrap(), _bound: bound }
    }
}

/// A backend that gives one answer, byte for byte, to whatever comes, and closes. For what no sane backend does.
pub(crate) struct Canned {
    pub(crate) addr: SocketAddr,
}

impl Canned {
    /// Listens until the test process ends.
    pub(crate) fn start(answer: &'static str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer_once(stream, answer);
            }
        });
        Self { addr }
    }
}

fn answer_once(mut stream: std::net::TcpStream, answer: &str) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.ends_with(b"}") {
        match stream.read(&mut chunk) {
            Ok(got @ 1..) => request.extend_from_slice(&chunk[..got]),
            _ => return,
        }
    }
    // A client that does not want the answer is no matter of the test.
    let _ = stream.write_all(answer.as_bytes());
}
