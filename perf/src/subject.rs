//! What is measured: obleth as its users run it, its peers, the floor, and the backend itself.
//!
//! obleth is always complete: a store, a tenant, a model, a key that every request shows. It must never be given a
//! mode that nobody else has.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    http,
    meter::Tree,
    peers::{self, Peer},
    process::{Process, Start},
    terminal::remark,
};

/// The model that every request names.
pub(crate) const MODEL: &str = "bench";
/// The gateway's admin token; it lives as long as the measurement, on loopback.
const ADMIN_TOKEN: &str = "obleth_admin_0123456789abcdef0123456789abcdef";
/// More requests in flight than any scenario has.
const NO_LIMIT: u32 = 1_000_000;
/// A rate and a budget that none reaches.
const FAR: u64 = 1_000_000_000_000;

/// Somebody who answers requests.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// The credential that it wants.
    pub(crate) key: String,
    process: Process,
}

impl Subject {
    /// The processes to count.
    pub(crate) fn tree(&self) -> Tree {
        Tree::of(self.process.pid())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The last thing it complained about.
    pub(crate) fn last_error(&self) -> String {
        self.process.last_error()
    }
}

/// How subjects are started: who stands behind them, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    /// The program `obleth`.
    pub(crate) obleth: &'a Path,
    /// Where they put their files.
    pub(crate) folder: &'a Path,
    /// Processors of the subject.
    pub(crate) processors: &'a [usize],
    /// Where the backend listens.
    pub(crate) backend: SocketAddr,
}

/// A gateway that was started and has not said yet that it is ready.
#[derive(Debug)]
pub(crate) struct Launch(Process);

impl Launch {
    /// Starts the gateway as [`Site::gateway_on`] does, and waits for nothing.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn start(
        site: &Site<'_>,
        name: &str,
        data: &Path,
        settings: &[(&'static str, String)],
    ) -> Result<Self> {
        let any = "127.0.0.1:0".to_owned();
        let mut env = vec![
            ("HOME", site.folder.display().to_string()),
            // So that the last line of its log is a complaint, if there is one.
            ("RUST_LOG", "obleth=warn".to_owned()),
            ("OBLETH_ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
            ("OBLETH_GLOBAL_MAX_IN_FLIGHT", NO_LIMIT.to_string()),
            ("OBLETH_PROXY_LISTEN", any.clone()),
            ("OBLETH_ADMIN_LISTEN", any.clone()),
            ("OBLETH_METRICS_LISTEN", any),
            ("OBLETH_DRAIN_TIMEOUT_SECS", "1".to_owned()),
        ];
        // Of two values of one name the later holds.
        env.extend(settings.iter().cloned());
        Ok(Self(Process::start(&Start {
            name,
            program: site.obleth,
            args: vec!["serve".to_owned(), "--data-dir".to_owned(), data.display().to_string()],
            env,
            processors: site.processors,
            folder: site.folder,
        })?))
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn ready(self) -> Result<Gateway> {
        let mut process = self.0;
        let line = process.line_with(" ready: ")?;
        let (data_plane, admin, metrics) = (address(&line, 0)?, address(&line, 1)?, address(&line, 2)?);
        Ok(Gateway { process, data_plane, metrics, admin })
    }

    /// Kills it, ready or not.
    pub(crate) fn kill(mut self) {
        self.0.stop(Signal::KILL);
    }
}

/// A gateway that runs.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) data_plane: SocketAddr,
    pub(crate) metrics: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// A call of the admin API, below `/api/v1`.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let path = format!("/api/v1{path}");
        http::Call { server: self.admin, method, path: &path, token: ADMIN_TOKEN }.json(body)
    }

    /// A page of a list of the admin API, and where the next one is. `path` is whole.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn list(&self, path: &str) -> Result<(Vec<u8>, Option<String>)> {
        http::Call { server: self.admin, method: "GET", path, token: ADMIN_TOKEN }.page("")
    }

    /// A new tenant, with an id and a key of its own.
    ///
    /// # Errors
    /// The admin API refuses one.
    pub(crate) fn tenant(&self, tenant: &Value) -> Result<(String, String)> {
        let tenant = self.admin("POST", "/tenants", tenant)?;
        let id = tenant["id"].as_str().context("a tenant without an id")?;
        let key = self.admin("POST", &format!("/tenants/{id}/keys"), &json!({"name": "bench"}))?;
        let key = key["secret"].as_str().context("a key without a secret")?;
        Ok((id.to_owned(), key.to_owned()))
    }
}

impl Site<'_> {
    /// The gateway with so many shards, rates and budgets that every request is counted against and no scenario reaches.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn obleth(&self, name: &str, shards: usize) -> Result<Subject> {
        let gateway = self.gateway(name, shards, NO_LIMIT)?;
        let (id, key) = gateway.tenant(&json!({"name": "bench"}))?;
        let rates = json!({"requests_per_minute": FAR, "tokens_per_minute": FAR});
        gateway.admin("PUT", &format!("/tenants/{id}/quota"), &rates)?;
        let budget = json!({"period": "monthly", "limit_tokens": FAR, "limit_micro_usd": FAR});
        if let Err(error) = gateway.admin("PUT", &format!("/tenants/{id}/budget"), &budget) {
            remark(&format!("{name} has no budgets: {error:#}"));
        }
        Ok(Subject { name: name.to_owned(), address: gateway.data_plane, key, process: gateway.process })
    }

    /// The gateway with so many shards, and so many slots in the pool of [`MODEL`].
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn gateway(&self, name: &str, shards: usize, slots: u32) -> Result<Gateway> {
        let data = tempfile::tempdir_in(self.folder)?.keep();
        let gateway = self.gateway_on(name, &data, &[("OBLETH_CORES", shards.to_string())])?;
        let model = json!({
            "model_name": MODEL,
            "api_base": format!("http://{}", self.backend),
            "max_in_flight": slots,
        });
        let model = gateway.admin("POST", "/models", &model)?;
        let id = model["id"].as_str().context("a model without an id")?;
        let prices = json!({"prices": {"input_micro_usd": 150_000, "output_micro_usd": 600_000}});
        if let Err(error) = gateway.admin("PATCH", &format!("/models/{id}"), &prices) {
            remark(&format!("{name} has no prices: {error:#}"));
        }
        Ok(gateway)
    }

    /// The gateway on a data folder, with these settings beside the usual ones, and with whatever it finds there.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn gateway_on(
        &self,
        name: &str,
        data: &Path,
        settings: &[(&'static str, String)],
    ) -> Result<Gateway> {
        Launch::start(self, name, data, settings)?.ready()
    }

    /// A forwarder that parses nothing.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn floor(&self) -> Result<Subject> {
        let program = std::env::current_exe().context("where is this program?")?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
        let args = ["floor", "--listen", &listen, "--to", &self.backend.to_string()];
        let mut process = self.start("floor", &program, args.map(str::to_owned).into())?;
        let address = address(&process.line_with("floor ready")?, 0)?;
        Ok(Subject { name: "floor".to_owned(), address, key: unchecked_key(), process })
    }

    /// A peer, if it is installed.
    ///
    /// # Errors
    /// It is not installed (the message says how to), or does not start.
    pub(crate) fn peer(&self, peer: Peer) -> Result<Subject> {
        let program = peer.program()?;
        let address = free_port()?;
        let args = peers::prepare(peer, self.folder, address, self.backend)?;
        let mut process = self.start(peer.name(), &program, args)?;
        process.until(|| TcpStream::connect(address).is_ok())?;
        Ok(Subject { name: peer.name().to_owned(), address, key: unchecked_key(), process })
    }

    fn start(&self, name: &str, program: &Path, args: Vec<String>) -> Result<Process> {
        let (processors, folder) = (self.processors, self.folder);
        Process::start(&Start { name, program, args, env: Vec::new(), processors, folder })
    }
}

/// Starts the simulated backend.
///
/// # Errors
/// It does not start.
pub(crate) fn backend(obleth: &Path, folder: &Path, processors: &[usize]) -> Result<Subject> {
    let args = ["sim-upstream", "--listen", "127.0.0.1:0"].map(str::to_owned).into();
    let start = Start { name: "direct", program: obleth, args, env: Vec::new(), processors, folder };
    let mut process = Process::start(&start)?;
    let address = address(&process.line_with("simulated backend")?, 0)?;
    // Peers wait for each other's rounds; a connection that was closed meanwhile would fail their next request.
    http::post(address, "/sim/options", "", &json!({"keep_alive_ms": 600_000}))?;
    let (name, key) = ("direct".to_owned(), unchecked_key());
    Ok(Subject { name, address, key, process })
}

/// The program `obleth`: the one given, else the one beside this program.
///
/// # Errors
/// There is none; the message says how to build it.
pub(crate) fn program(given: Option<&Path>) -> Result<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("obleth"));
    let path = given.map(Path::to_owned).or_else(beside).context("where is this program?")?;
    let is_file = path.is_file();
    if !is_file {
        let built = if cfg!(debug_assertions) { "cargo build" } else { "cargo build --release" };
        bail!("there is no {}: run `{built}` first, or name the program with --obleth", path.display());
    }
    Ok(path.canonicalize()?)
}

/// What is sent to those who check no key: as long as a real one, so that requests have equal sizes.
fn unchecked_key() -> String {
    format!("sk_{}", "0".repeat(48))
}

/// The `index`-th `http://` address of a line.
fn address(line: &str, index: usize) -> Result<SocketAddr> {
    let part = line.split("http://").nth(index + 1).with_context(|| format!("no address in {line:?}"))?;
    let end = part.find(|c: char| !c.is_ascii_digit() && !".:[]".contains(c)).unwrap_or(part.len());
    part.get(..end).unwrap_or_default().parse().with_context(|| format!("no address in {line:?}"))
}

/// A port that was free a moment ago, for servers that cannot pick one.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_line_that_says_ready() {
        let line = "obleth 0.1.0 ready: data plane http://127.0.0.1:8080, admin http://127.0.0.1:9090/";
        assert_eq!(address(line, 0).unwrap().port(), 8080);
        assert_eq!(address(line, 1).unwrap().port(), 9090);
        assert!(address(line, 2).is_err());
    }
}
