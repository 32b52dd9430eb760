//! The binary: wiring only, no behaviour.
//!
//! `serve` reads as the process's story: configuration, data folder, store, listeners, links, coordinator, sidecar, shards,
//! the line that says "ready", then waiting for signals, and the drain. Whatever fails before that line ends
//! the process with one line and a code of [`exit`], and everything that was started goes with it.
//!
//! Once all shards accept connections, one line on standard output names the real addresses:
//!
//! ```text
//! obleth 0.1.0 ready: data plane http://0.0.0.0:8080, admin http://127.0.0.1:9090, metrics http://127.0.0.1:9091
//! ```
//!
//! Unless the operator gave the admin token, a line before it says in which file it lies; a demo's lines after it
//! say what to try.

mod allocator;
mod cli;
mod config;
mod coordinator;
mod data_dir;
mod demo;
mod exit;
mod ledger;
mod listen;
mod log;
mod remote;
mod restarts;
mod sidecar;
mod signals;
mod supervise;
mod terminal;
mod threads;
mod usage;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
};

use obleth_link::BufferBudget;
use obleth_policy::{key::Pepper, snapshot::Timers};
use obleth_proxy::UpstreamTls;

use cli::{CheckArgs, Cli, Command, ServeArgs, SettingArgs};
use config::{Config, Environment, LoadError, Loaded};
use coordinator::CoordinatorThread;
use data_dir::{DataDir, Secrets};
use demo::Demo;
use exit::{Exit, Failure};
use ledger::LogThread;
use listen::{Addresses, Listeners};
use sidecar::SidecarThread;
use supervise::{End, Process};
use threads::{News, Shards};

/// Of the package.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What it was built from.
const COMMIT: &str = env!("BUILD_COMMIT");

fn main() -> ExitCode {
    let whole = || cli::parse().and_then(|cli| cli.map_or(Ok(ExitCode::SUCCESS), run));
    let bug = |_| Err(Failure::new(Exit::Software, "the main thread died of a fault of ours"));
    std::panic::catch_unwind(whole).unwrap_or_else(bug).unwrap_or_else(|failure| {
        terminal::complain(&format!("obleth: {failure}"));
        failure.code()
    })
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { command, serve: args, validate, version } = cli;
    if version {
        terminal::say(&format!("obleth {VERSION} ({COMMIT})"));
        return Ok(ExitCode::SUCCESS);
    }
    match command {
        None if validate => check(&CheckArgs { settings: args.settings, list: false }),
        None => serve(&args),
        Some(Command::Serve(args)) => serve(&args),
        Some(Command::Check(args)) => check(&args),
        Some(Command::Usage(args)) => usage::report(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::SimUpstream(args)) => {
            let (sender, news) = mpsc::channel();
            listen_to_signals(sender)?;
            demo::run_backend(args, &news).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// `obleth serve`: runs until a signal has been carried out.
fn serve(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let Loaded { config, log_filter, force_epoll, warnings } = load(&args.settings).map_err(refused)?;
    log::start(config.log_format, log_filter);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let (sender, news) = mpsc::channel();
    listen_to_signals(sender.clone())?;
    let folder = DataDir::open(args.data_dir.as_deref(), args.demo)?;
    let secrets = folder.secrets(
        config.admin_token.as_ref(),
        config.master_key.as_ref(),
        &database(&config, &folder),
    )?;
    threads::raise_descriptor_limit();
    threads::keep_pages_small();

    let log = config.wal_dir.clone().unwrap_or_else(|| folder.wal());
    let settings = sidecar_settings(&config, &secrets, (&folder, &log));
    let mut sidecar = obleth_admin::Sidecar::open(settings.clone()).map_err(sidecar::open_failure)?;
    let demo = if args.demo { Some(Demo::start(&mut sidecar)?) } else { None };
    let shards = config.cores.map_or_else(threads::default_shards, |cores| cores as usize);
    let log = ledger::open(&config, log, shards, sidecar.checkpoint())?;
    let (listeners, addresses) = Listeners::bind(
        config.proxy_listen,
        shards,
        config.admin_listen,
        config.metrics_listen,
        config.client_silent_timeout,
    )?;
    let Listeners { proxy, admin, metrics } = listeners;
    let (link, ends) = obleth_link::links(shards, BufferBudget::new(config.max_buffered_bytes))
        .map_err(|error| Failure::io(Exit::OsErr, "cannot link the threads", &error))?;

    let limits = obleth_proxy::QueueLimits {
        queue: config.max_queue_depth,
        tenant_queue: config.max_tenant_queue_depth,
    };
    let coordinator = CoordinatorThread::start(link.clone(), limits, sender.clone())
        .map_err(|error| Failure::io(Exit::OsErr, "cannot start the coordinator", &error))?;
    let (slates, tail) = (log.slates, log.tail);
    let log = LogThread::start(log.writer, sender.clone())
        .map_err(|error| Failure::io(Exit::OsErr, "cannot start the usage log", &error))?;
    let links = (link.clone(), tail);
    let sidecar = SidecarThread::start(sidecar, settings, links, (admin, metrics), sender.clone())
        .map_err(|error| Failure::io(Exit::OsErr, "cannot start the sidecar", &error))?;
    sidecar.wait_for_answer(addresses.admin, "/api/v1/health")?;
    sidecar.wait_for_answer(addresses.metrics, "/metrics")?;
    let settings = Arc::new(proxy_settings(&config, force_epoll));
    let ends = ends.into_iter().zip(slates).collect();
    let shards = Shards::new(obleth_proxy::run_shard, proxy, ends, settings, sender);
    let mut process = Process::new((shards, coordinator, log, sidecar), link, news, config.drain_timeout);
    process.start_shards()?;

    announce(&secrets, addresses, demo.as_ref());
    let end = process.supervise();
    match end {
        End::Drained => tracing::info!("drained"),
        End::Forced(signal) => {
            folder.discard();
            std::process::exit(128 + signal);
        }
        End::Hopeless => return Err(Failure::new(Exit::Software, "every shard died too often; see the log")),
    }
    Ok(ExitCode::SUCCESS)
}

/// `obleth check`: every fault on a line of its own. Binds nothing, writes nothing.
fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    if args.list {
        terminal::say(config::markdown().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let faults = match load(&args.settings) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| terminal::complain(&format!("warning: {warning}")));
            terminal::say("the configuration is valid");
            return Ok(ExitCode::SUCCESS);
        }
        Err(LoadError::File(fault)) => vec![fault],
        Err(LoadError::Faults(faults)) => faults,
    };
    faults.iter().for_each(|fault| terminal::complain(&fault.to_string()));
    let count = if faults.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", faults.len()) };
    Err(Failure::new(Exit::Usage, format!("{count} in the configuration")))
}

fn load(args: &SettingArgs) -> Result<Loaded, LoadError> {
    config::load(args.config.as_deref(), args.flags(), Environment::of_process())
}

/// A start without a configuration: the first fault, and how to see the rest.
fn refused(error: LoadError) -> Failure {
    match error {
        LoadError::File(fault) => Failure::new(Exit::NoInput, fault.to_string()),
        LoadError::Faults(faults) => {
            let first = faults.first().map(ToString::to_string).unwrap_or_default();
            let line = match faults.len() {
                0 | 1 => first,
                count => format!("{first} (and {} more: run `obleth check`)", count - 1),
            };
            Failure::new(Exit::Usage, line)
        }
    }
}

fn listen_to_signals(news: Sender<News>) -> Result<(), Failure> {
    signals::listen(news).map_err(|error| Failure::io(Exit::OsErr, "cannot listen to signals", &error))
}

fn announce(secrets: &Secrets, addresses: Addresses, demo: Option<&Demo>) {
    if let Some(path) = &secrets.token_file {
        terminal::say(&format!("obleth {VERSION} admin token: in {}", path.display()));
    }
    let Addresses { proxy, admin, metrics } = addresses;
    terminal::say(&format!(
        "obleth {VERSION} ready: data plane http://{proxy}, admin http://{admin}, metrics http://{metrics}"
    ));
    if let Some(demo) = demo {
        terminal::say(&demo.lines(proxy));
    }
}

/// What the configuration means for the data plane.
fn proxy_settings(config: &Config, force_epoll: bool) -> obleth_proxy::Settings {
    obleth_proxy::Settings {
        key_cache_entries: config.key_cache_entries,
        key_max_age: config.key_max_age,
        key_stale_ok: config.key_stale_ok,
        fail_open: config.fail_open,
        pepper: pepper(config),
        max_request_bytes: config.max_request_bytes,
        admission_timeout: config.admission_timeout,
        brownout: obleth_proxy::BrownoutLimits {
            wait: config.brownout_wait,
            max_tokens: config.brownout_max_tokens,
        },
        client: obleth_proxy::ClientLimits {
            head: config.client_head_timeout,
            body_pause: config.client_body_pause,
            idle: config.client_idle_timeout,
            write: config.client_write_timeout,
        },
        upstream_keepalive: config.upstream_keepalive,
        upstream_tls: config.upstream_ca_file.clone().unwrap_or_else(UpstreamTls::of_system),
        drain_timeout: config.drain_timeout,
        trusted_proxies: Arc::clone(&config.trusted_proxies),
        force_epoll,
        give_back: allocator::give_back,
    }
}

/// What the configuration means for the sidecar.
fn sidecar_settings(
    config: &Config,
    secrets: &Secrets,
    (folder, log): (&DataDir, &Path),
) -> obleth_admin::Settings {
    obleth_admin::Settings {
        database: database(config, folder),
        usage: obleth_admin::UsageSettings {
            database: folder.usage(),
            log: log.to_owned(),
            retention_days: config.usage_retention_days,
            clickhouse: config.clickhouse(),
            give_back: allocator::give_back,
        },
        master_key: secrets.master_key.clone(),
        admin_token: secrets.admin_token.clone(),
        pepper: pepper(config),
        networks: config.networks(),
        known_names: obleth_admin::KnownNames::default(),
        default_upstream: config.upstream_base_url.clone().map(|base_url| obleth_admin::DefaultUpstream {
            base_url,
            api_key: config.upstream_api_key.clone(),
        }),
        default_timers: Timers {
            connect: config.upstream_connect_timeout,
            first_byte: config.upstream_first_byte_timeout,
            idle: config.upstream_idle_timeout,
            total: config.upstream_total_timeout,
        },
        default_model_max_in_flight: config.default_model_max_in_flight,
        global_max_in_flight: config.global_max_in_flight,
        brownout_default: config.brownout_default,
        alert_webhook: config
            .alert_webhook_url
            .clone()
            .map(|url| obleth_admin::AlertWebhook { url, secret: config.alert_webhook_secret.clone() }),
        key_cache_entries: config.key_cache_entries,
        version: VERSION,
        commit: COMMIT,
    }
}

fn database(config: &Config, folder: &DataDir) -> PathBuf {
    config.database.clone().unwrap_or_else(|| folder.database())
}

fn pepper(config: &Config) -> Option<Pepper> {
    config.api_key_pepper.as_ref().map(|text| Pepper::new(text.expose().as_bytes()))
}
