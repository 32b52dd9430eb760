//! The rig of a fairness run: the real gateway with its tenants, and a backend with as many places as the pool has.
//!
//! Both are fresh for each run. What is open at the backend is counted by the backend itself; a gateway that asks for
//! more than the pool finds its request waiting there, and counted.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    generator::{Demand, Generator, Plan},
    scenario::Setting,
    seen::Seen,
};
use crate::{
    http::Call,
    signals,
    subject::{self, Gateway, Site, Subject},
};

/// How long after the last client has left somebody may still be busy for it.
const QUIET: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// From the thread that begins a run to its first request.
const START: Duration = Duration::from_millis(50);

/// Where rigs are set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    pub(super) obleth: &'a Path,
    pub(super) folder: &'a Path,
    /// Of everybody: what is measured here is who gets what, not what it costs.
    pub(super) processors: &'a [usize],
}

pub(super) struct Rig {
    pub(super) gateway: Gateway,
    backend: Subject,
    pub(super) tenants: Vec<Tenant>,
    setting: Setting,
}

/// A tenant as the gateway knows it.
pub(super) struct Tenant {
    pub(super) id: String,
    pub(super) key: String,
}

/// The state of a run at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    at: Instant,
    /// Time of all of the backend's places together in which they were taken.
    generating: Duration,
    ticks: Ticks,
}

/// What all processors did since the machine started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// What lies between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Between {
    /// Part of the slots in use.
    pub(super) used: f64,
    /// Part of the processors in use, by whomever.
    pub(super) busy: f64,
}

impl Rig {
    /// Starts backend and gateway, and registers everybody.
    ///
    /// # Errors
    /// One does not start, or the admin API refuses something.
    pub(super) fn start(ground: Ground<'_>, setting: &Setting) -> Result<Self> {
        let Ground { obleth, folder, processors } = ground;
        let backend = subject::backend(obleth, folder, processors)?;
        let site = Site { obleth, folder, processors, backend: backend.address };
        let gateway = site.gateway("obleth", setting.shards, setting.slots)?;
        for group in &setting.groups {
            gateway.admin("POST", "/groups", &json!({"name": group.name, "weight": group.weight}))?;
        }
        let mut tenants = Vec::new();
        for (at, tenant) in setting.tenants.iter().enumerate() {
            let mut body = json!({"name": format!("tenant-{at}"), "weight": tenant.weight});
            if let Some(group) = &tenant.group {
                body["group_name"] = json!(group);
            }
            if let Some(most) = tenant.max_in_flight {
                body["max_in_flight"] = json!(most);
            }
            let (id, key) = gateway.tenant(&body)?;
            tenants.push(Tenant { id, key });
        }
        let rig = Self { gateway, backend, tenants, setting: setting.clone() };
        rig.backend("POST", "/sim/options", &json!({"max_concurrency": setting.slots}))?;
        Ok(rig)
    }

    fn backend(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        Call { server: self.backend.address, method, path, token: "" }.json(body)
    }

    /// What the backend counts.
    pub(super) fn counts(&self) -> Result<Value> {
        self.backend("GET", "/sim/stats", &json!({}))
    }

    /// One of the backend's counts.
    pub(super) fn count(&self, name: &str) -> Result<u64> {
        self.counts()?[name].as_u64().with_context(|| format!("the backend does not count {name}"))
    }

    /// The gateway's gauges by name, those that are 0 included; a name with labels stands once for all of them.
    pub(super) fn gauges(&self, names: &[&'static str]) -> Result<Vec<(&'static str, Option<f64>)>> {
        let call = Call { server: self.gateway.metrics, method: "GET", path: "/metrics", token: "" };
        let text = String::from_utf8_lossy(&call.send("")?).into_owned();
        Ok(names.iter().map(|name| (*name, gauge(&text, name))).collect())
    }

    /// A tenant's load as the setting says: a closed loop for all of the run.
    pub(super) fn demand(&self, at: usize) -> Result<Demand> {
        let (tenant, setting) = (self.tenants.get(at), self.setting.tenants.get(at));
        let (tenant, setting) = tenant.zip(setting).context("no such tenant")?;
        Ok(Demand {
            key: tenant.key.clone(),
            connections: setting.connections,
            rate: None,
            lengths: self.setting.lengths,
            from: Duration::ZERO,
            until: None,
            ready: Vec::new(),
            leaving: None,
        })
    }

    /// Load of everybody, as the setting says.
    pub(super) fn demands(&self) -> Result<Vec<Demand>> {
        (0..self.tenants.len()).map(|at| self.demand(at)).collect()
    }

    pub(super) fn plan(&self, demands: Vec<Demand>, length: Duration, seed: u64) -> Plan {
        let target = self.target();
        Plan { target, tokens_per_second: self.setting.tokens_per_second, demands, length, seed }
    }

    pub(super) fn target(&self) -> SocketAddr {
        self.gateway.data_plane
    }

    /// Puts the load on, and runs `meanwhile` beside it, which is told when the run began.
    ///
    /// # Errors
    /// The load or what runs beside it failed; or the gateway's last complaint with it.
    pub(super) fn run<T>(
        &self,
        plan: Plan,
        meanwhile: impl FnOnce(Instant) -> Result<T>,
    ) -> Result<(Vec<Seen>, T)> {
        let begin = Instant::now() + START;
        let generator = Generator::new(plan, begin)?;
        let (seen, beside) = std::thread::scope(|scope| {
            let load = scope.spawn(|| generator.run());
            let beside = meanwhile(begin);
            (load.join(), beside)
        });
        let Ok(seen) = seen else { bail!("the generator died") };
        let seen = seen.with_context(|| format!("(obleth: {})", self.gateway.process.last_error()))?;
        Ok((seen, beside?))
    }

    /// Waits until neither gateway nor backend has anything to do.
    ///
    /// # Errors
    /// One of them goes on for too long.
    pub(super) fn quiet(&self) -> Result<()> {
        let end = Instant::now() + QUIET;
        loop {
            let counts = self.counts()?;
            if counts["active"] == 0 && counts["queued"] == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the backend is still asked {QUIET:?} after everybody left");
            signals::wait(LOOK)?;
        }
    }

    pub(super) fn look(&self) -> Result<Look> {
        let at = Instant::now();
        let generating = Duration::from_micros(self.count("generating_us")?);
        Ok(Look { at, generating, ticks: ticks(&std::fs::read_to_string("/proc/stat")?)? })
    }

    pub(super) fn between(&self, from: Look, to: Look) -> Between {
        let time = (to.at - from.at).as_secs_f64() * f64::from(self.setting.slots);
        let all = to.ticks.all.saturating_sub(from.ticks.all).max(1);
        Between {
            used: (to.generating - from.generating).as_secs_f64() / time,
            busy: to.ticks.busy.saturating_sub(from.ticks.busy) as f64 / all as f64,
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.setting.slots
    }

    /// The gateway's process.
    pub(super) fn pid(&self) -> u32 {
        self.gateway.process.pid()
    }
}

/// The sum of a metric's series; none if it has none.
fn gauge(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit(' ').next()?.parse().ok()
    };
    text.lines().filter_map(value).reduce(|sum, one| sum + one)
}

/// The first line of `/proc/stat` (proc(5)): idle and waiting for input are not busy.
fn ticks(text: &str) -> Result<Ticks> {
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // Guest time is in user time already.
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    ensure!(all > 0, "the kernel does not say how busy it is");
    Ok(Ticks { busy: all - idle, all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_the_sum_of_its_series_and_not_of_its_namesakes() {
        let text = "# TYPE a gauge\na{m=\"x y\"} 3\na{m=\"z\"} 4\nab 9\nb 0\n";
        assert_eq!([gauge(text, "a"), gauge(text, "b"), gauge(text, "c")], [Some(7.0), Some(0.0), None]);
    }

    #[test]
    fn idle_processors_are_not_busy() {
        assert_eq!(ticks("cpu  5 1 4 80 10 0 0 0 3 0\ncpu0").unwrap(), Ticks { busy: 10, all: 100 });
        assert!(ticks("").is_err());
    }
}
