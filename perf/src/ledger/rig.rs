//! The rig of a run: a backend that keeps a journal, and a gateway that is killed and started again on its data.
//!
//! The gateway's data plane keeps its port, outside of those that the kernel gives to clients, so that the load finds it
//! again and nobody else takes it meanwhile.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::{clickhouse::ClickHouse, mix::TIGHT, reconcile::Price};
use crate::{
    http::{self, Call},
    signals,
    subject::{self, Gateway, Launch, MODEL, Site, Subject},
};

/// Prices of both models.
pub(super) const PRICE: Price = Price { input: 2_500_000, output: 10_000_000 };
/// Callers.
const TENANTS: usize = 6;
/// Slots of the tight model, and how many may wait for one.
const TIGHT_SLOTS: u32 = 3;
const TIGHT_QUEUE: u32 = 6;
/// Slots of the other one: nobody waits.
const SLOTS: u32 = 100_000;
/// Ports that the kernel does not give to clients by default, begin and end.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// How long after the last client the backend may still be busy.
const QUIET: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A backend and a gateway.
pub(super) struct Rig<'a> {
    obleth: &'a Path,
    folder: &'a Path,
    processors: &'a [usize],
    backend: Subject,
    data: PathBuf,
    settings: Vec<(&'static str, String)>,
    pub(super) target: SocketAddr,
    gateway: Gateway,
    /// So far; each has a name of its own, and with it its complaints.
    starts: usize,
    /// Records that the killed ones said they had no room for; none if one did not say.
    no_room: Option<f64>,
    port_taken: Duration,
    /// Where the ledger is, if not with the gateway.
    pub(super) store: Option<ClickHouse>,
}

impl<'a> Rig<'a> {
    /// Starts both, the gateway with its ledger in `store` if there is one. The journal has room for so many requests.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn start(
        obleth: &'a Path,
        folder: &'a Path,
        processors: &'a [usize],
        store: Option<ClickHouse>,
        journal: usize,
    ) -> Result<Self> {
        let backend = subject::backend(obleth, folder, processors)?;
        http::post(backend.address, "/sim/options", "", &json!({"journal": journal}))?;
        let target = steady_address()?;
        let mut settings = vec![
            ("OBLETH_CORES", "2".to_owned()),
            ("OBLETH_PROXY_LISTEN", target.to_string()),
            ("OBLETH_MAX_QUEUE_DEPTH", TIGHT_QUEUE.to_string()),
        ];
        settings.extend(store.iter().flat_map(ClickHouse::settings));
        let data = tempfile::tempdir_in(folder)?.keep();
        let site = Site { obleth, folder, processors, backend: backend.address };
        let gateway = site.gateway_on("obleth-0", &data, &settings)?;
        Ok(Self {
            obleth,
            folder,
            processors,
            backend,
            data,
            settings,
            target,
            gateway,
            starts: 0,
            no_room: Some(0.0),
            port_taken: Duration::ZERO,
            store,
        })
    }

    fn site(&self) -> Site<'a> {
        Site {
            obleth: self.obleth,
            folder: self.folder,
            processors: self.processors,
            backend: self.backend.address,
        }
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(super) fn backend(&self) -> SocketAddr {
        self.backend.address
    }

    /// Registers models and callers, and gives the callers' keys.
    ///
    /// # Errors
    /// The admin API refuses something.
    pub(super) fn register(&self) -> Result<Vec<String>> {
        for (name, slots) in [(MODEL, SLOTS), (TIGHT, TIGHT_SLOTS)] {
            let model = json!({
                "model_name": name,
                "api_base": format!("http://{}", self.backend.address),
                "max_in_flight": slots,
                "prices": {"input_micro_usd": PRICE.input, "output_micro_usd": PRICE.output},

            });
            self.gateway.admin("POST", "/models", &model)?;
        }
        let tenant = |at| Ok(self.gateway.tenant(&json!({"name": format!("tenant-{at}")}))?.1);
        (0..TENANTS).map(tenant).collect()
    }

    /// Kills the gateway, and says when, by the clock that began at `begin`.
    ///
    /// # Errors
    /// It was dead already, which is a finding of its own.
    pub(super) fn kill(&mut self, begin: Instant) -> Result<Duration> {
        self.no_room = self.no_room().with_context(|| {
            format!("the gateway died before it was killed: {}", self.gateway.process.last_error())
        })?;
        self.gateway.process.stop(Signal::KILL);
        Ok(begin.elapsed())
    }

    /// Starts the gateway again on what the killed one left.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.port_is_free()?;
        let (site, name) = (self.site(), self.next_name());
        self.gateway = site.gateway_on(&name, &self.data, &self.settings)?;
        Ok(())
    }

    /// Starts the gateway and kills it so long after, ready or not. Says when it was killed.
    ///
    /// # Errors
    /// It cannot be run.
    pub(super) fn false_start(&mut self, lives: Duration, begin: Instant) -> Result<Duration> {
        let (site, name) = (self.site(), self.next_name());
        self.port_is_free()?;
        let launch = Launch::start(&site, &name, &self.data, &self.settings)?;
        std::thread::sleep(lives);
        launch.kill();
        Ok(begin.elapsed())
    }

    /// Waits until the kernel has taken the port from the killed gateway: what io_uring holds it gives back only after
    /// the process is gone.
    fn port_is_free(&mut self) -> Result<()> {
        let since = Instant::now();
        while TcpListener::bind(self.target).is_err() {
            ensure!(
                since.elapsed() < QUIET,
                "the port is still taken {QUIET:?} after the gateway was killed"
            );
            signals::wait(LOOK)?;
        }
        self.port_taken = self.port_taken.max(since.elapsed());
        Ok(())
    }

    /// The longest that the port of a killed gateway stayed taken.
    pub(super) fn port_taken(&self) -> Duration {
        self.port_taken
    }

    fn next_name(&mut self) -> String {
        self.starts += 1;
        format!("obleth-{}", self.starts)
    }

    /// Waits until the backend has nothing to do.
    ///
    /// # Errors
    /// It goes on for too long.
    pub(super) fn quiet(&self) -> Result<()> {
        let end = Instant::now() + QUIET;
        let call = Call { server: self.backend.address, method: "GET", path: "/sim/stats", token: "" };
        loop {
            let counts = call.json(&json!({}))?;
            if counts["active"] == 0 && counts["queued"] == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the backend is still asked {QUIET:?} after everybody left");
            signals::wait(LOOK)?;
        }
    }

    /// Records that all gateways of the run said they had no room for; none if one did not say.
    ///
    /// # Errors
    /// The gateway does not answer.
    pub(super) fn no_room(&self) -> Result<Option<f64>> {
        let call = Call { server: self.gateway.metrics, method: "GET", path: "/metrics", token: "" };
        let text = String::from_utf8_lossy(&call.send("")?).into_owned();
        let lines = text.lines().filter(|line| line.starts_with("obleth_usage_lost_total"));
        let now = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).reduce(|a, b| a + b);
        Ok(self.no_room.zip(now).map(|(before, now)| before + now))
    }
}

/// An address at which nobody listens, with a port that no client is given.
fn steady_address() -> Result<SocketAddr> {
    // Several runs side by side begin at different ports.
    let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let ports = (first..PORTS.end).chain(PORTS.start..first);
    let mut addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).context("no free port")
}
