//! The sidecar: everything that may wait for a remote, on one tokio thread.
//!
//! It owns the store, the admin API and the metrics, tells the shards what they run under, and looks keys up
//! for them. Traffic must never depend on it: shards go on with what they know when it stalls or dies.
//!
//! | file | what |
//! |---|---|
//! | `store/` | SQLite on threads of its own; rows come and go typed |
//! | `snapshot.rs` | rows to the snapshot that requests run under |
//! | `limits/` | rows to what the owner of the limits is told; days and months |
//! | `pump.rs`, `bell.rs`, `outbox.rs`, `orders.rs`, `looks.rs`, `seen.rs` | the link: events and reports in, commands and orders out |
//! | `sampler.rs`, `history.rs`, `directory.rs` | who was served how much, and what they are called |
//! | `resolve.rs`, `address.rs`, `networks.rs` | where backends are, and may be |
//! | `budget/` | what budgets have used, and who hears of it |
//! | `usage/` | the ledger: where records stay, and the reports over them |
//! | `vault.rs`, `random.rs` | what is encrypted, and what is drawn by lot |
//! | `api/`, `metrics/`, `server.rs` | the two listeners |
//! | `stop.rs`, `threads.rs` | its end |

mod address;
mod api;
mod authorities;
mod bell;
mod budget;
mod clock;
mod directory;
mod history;
mod limits;
mod looks;
mod metrics;
mod networks;
mod orders;
mod outbox;
mod patience;
mod pump;
mod random;
mod resolve;
mod sampler;
mod seen;
mod server;
mod snapshot;
mod stop;
mod store;
mod threads;
mod usage;
mod vault;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use obleth_ledger::{Checkpoint, Tail};
use obleth_link::SidecarEnd;
use obleth_policy::{
    key::{KeyDigest, Pepper},
    snapshot::{Brownout, Secret, Timers},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

pub use address::{AddressFault, check_api_base};
pub use budget::webhook::{AlertWebhook, NoWebhook, check_webhook_url};
pub use networks::Networks;
pub use random::{generate_key_secret, generate_token};
pub use resolve::KnownNames;
pub use stop::StopSignal;
pub use store::OpenError;
pub use usage::{
    CheckpointError, ClickHouseSettings, NoClickHouse, check_clickhouse_database, check_clickhouse_url,
    read_checkpoint,
};
pub use vault::{BadMasterKey, MasterKey};

use address::ApiBase;
use api::{App, Shared, TokenDigest};
use budget::{
    Watch,
    keeper::{self, Keeper},
};
use limits::LimitDesk;
use metrics::Probes;
use pump::Pump;
use resolve::Names;
use sampler::Sampler;
use snapshot::{Defaults, Publisher};
use store::{
    Db, KeyLookup, Store,
    fault::StoreError,
    rows::{Act, EndpointRow, KeyRow, ModelRow, Registry, TenantRow},
};
use threads::join_within;
use usage::{
    Ledger,
    home::Home,
    shipper::{Shipper, Shipping},
};

/// How long the first snapshot waits for names; what does not resolve by then follows in a later one.
const FIRST_NAMES: Duration = Duration::from_secs(1);
/// Pause between tries to read back what could not be published.
const REREAD_PAUSE: Duration = Duration::from_secs(1);
/// How long the files' threads may take to close them. What they still have to say is in the files by then.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Threads that may hang in the system's resolver.
const RESOLVER_THREADS: usize = 32;
/// Name of the demo's tenant and of its model.
const DEMO: &str = "demo";

/// What the sidecar must know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The SQLite file; its folder exists. `OBLETH_DATABASE_URL`.
    pub database: PathBuf,
    /// Where usage records stay.
    pub usage: UsageSettings,
    /// Encrypts upstream credentials at rest. `OBLETH_MASTER_KEY`.
    pub master_key: MasterKey,
    /// What admin requests must show. `OBLETH_ADMIN_TOKEN`.
    pub admin_token: Secret,
    /// Digests are keyed with it. The shards' must be the same. `OBLETH_API_KEY_PEPPER`.
    pub pepper: Option<Pepper>,
    /// Where backends may be.
    pub networks: Networks,
    /// What outlives the sidecar: the settings of its next life hold the same.
    pub known_names: KnownNames,
    /// For models that name no endpoint.
    pub default_upstream: Option<DefaultUpstream>,
    /// For models that state no time limits.
    pub default_timers: Timers,
    /// Slots of a model that states none. `OBLETH_DEFAULT_MODEL_MAX_IN_FLIGHT`.
    pub default_model_max_in_flight: u32,
    /// Ceiling of the process. `OBLETH_GLOBAL_MAX_IN_FLIGHT`.
    pub global_max_in_flight: u32,
    /// What happens to requests that would wait long, of tenants that do not say. `OBLETH_BROWNOUT_DEFAULT`.
    pub brownout_default: Brownout,
    /// Where it is told that budgets fill up. `OBLETH_ALERT_WEBHOOK_URL`.
    pub alert_webhook: Option<AlertWebhook>,
    /// Keys that are remembered for an outage of the store. `OBLETH_KEY_CACHE_ENTRIES`.
    pub key_cache_entries: usize,
    /// Of the program.
    pub version: &'static str,
    /// It was built from.
    pub commit: &'static str,
}

/// Where usage records stay, and how long.
#[derive(Clone, Debug)]
pub struct UsageSettings {
    /// A SQLite file of their own; its folder exists.
    pub database: PathBuf,
    /// The folder of the log that they come from. `OBLETH_WAL_DIR`.
    pub log: PathBuf,
    /// Days that they are kept besides today; 0 = for ever. `OBLETH_USAGE_RETENTION_DAYS`.
    pub retention_days: u32,
    /// A server that keeps them instead. `OBLETH_CLICKHOUSE_URL`.
    pub clickhouse: Option<ClickHouseSettings>,
    /// Called on a thread that has become quiet: gives to the system what the thread has freed.
    pub give_back: fn(),
}

/// The backend of models that name none.
#[derive(Clone, Debug)]
pub struct DefaultUpstream {
    /// As `api_base` of an endpoint; [`check_api_base`] judges it. `OBLETH_UPSTREAM_BASE_URL`.
    pub base_url: String,
    /// `OBLETH_UPSTREAM_API_KEY`.
    pub api_key: Option<Secret>,
}

/// The demo's key and what to ask for with it.
#[derive(Clone)]
pub struct DemoSeed {
    /// The secret of a fresh key.
    pub secret: String,
    /// The model's name.
    pub model: &'static str,
}

/// The demo could not be set up; the text says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SeedError(String);

/// An opened store and all that is needed to run. Owned by the thread that will run it; on drop the store is
/// closed.
#[derive(Debug)]
pub struct Sidecar {
    settings: Settings,
    default_upstream: Option<(ApiBase, Option<Secret>)>,
    db: Db,
    keys: KeyLookup,
    usage: Home,
    checkpoint: Option<Checkpoint>,
}

impl Sidecar {
    /// Opens and migrates the store on the calling thread, so that every fault is known before a port is bound.
    ///
    /// # Errors
    /// One clear line each; see [`OpenError`].
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        Self::open_with(settings, Home::open)
    }

    /// Opens it again after a fault, while the process goes on: without the usage ledger if that is what cannot be
    /// opened. Keys are looked up all the same; reports are refused, and records wait in the log.
    ///
    /// # Errors
    /// As for [`Sidecar::open`], except for the ledger's.
    pub fn reopen(settings: Settings) -> Result<Self, OpenError> {
        Self::open_with(settings, |usage| Ok((Home::reopen(usage), None)))
    }

    fn open_with(
        settings: Settings,
        open_ledger: impl FnOnce(&UsageSettings) -> Result<(Home, Option<Checkpoint>), OpenError>,
    ) -> Result<Self, OpenError> {
        let parse = |upstream: &DefaultUpstream| {
            check_api_base(&upstream.base_url, settings.networks).map_err(OpenError::DefaultUpstream)?;
            let base = ApiBase::parse(&upstream.base_url).map_err(OpenError::DefaultUpstream)?;
            Ok::<_, OpenError>((base, upstream.api_key.clone()))
        };
        let default_upstream = settings.default_upstream.as_ref().map(parse).transpose()?;
        let (db, keys) = Db::open(&settings.database, &settings.master_key)?;
        let (usage, checkpoint) = open_ledger(&settings.usage)?;
        let book = db.spend_place().map_err(|_| OpenError::Damaged { path: settings.database.clone() })?;
        let checkpoint = keeper::checkpoint(checkpoint, book, &settings.usage.log);
        Ok(Self { settings, default_upstream, db, keys, usage, checkpoint })
    }

    /// How far the usage log has come into the ledger and the spend book, so that the log goes on behind it; for a log that
    /// is opened later.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint
    }

    /// Puts the demo's tenant, model and a fresh key into the store. What an earlier demo left is used again;
    /// the model moves to `upstream`.
    ///
    /// # Errors
    /// The store's.
    pub fn seed_demo(&mut self, upstream: SocketAddr) -> Result<DemoSeed, SeedError> {
        self.seed(upstream).map_err(|error| SeedError(error.to_string()))
    }

    fn seed(&mut self, upstream: SocketAddr) -> Result<DemoSeed, StoreError> {
        let act = |action| Act { actor: DEMO.to_owned(), action };
        let tenant = match self.db.tenant_named(DEMO)? {
            Some(tenant) => tenant,
            None => self.db.create_tenant(&act("tenant.create"), TenantRow::draft(DEMO.into()))?,
        };
        let endpoint = EndpointRow::draft("default".into(), format!("http://{upstream}/v1"));
        match self.db.model_named(DEMO)? {
            Some(model) => {
                let edit = |row: &mut ModelRow| {
                    (row.enabled, row.endpoints) = (true, vec![endpoint]);
                    Ok(())
                };
                self.db.update_model(&act("model.update"), model.id, edit)?;
            }
            None => {
                let draft = ModelRow { endpoints: vec![endpoint], ..ModelRow::draft(DEMO.into()) };
                self.db.create_model(&act("model.create"), draft)?;
            }
        }
        let secret = generate_key_secret();
        let digest = KeyDigest::of(secret.as_bytes(), self.settings.pepper.as_ref());
        let name = format!("{DEMO} {}", random::fresh_id(clock::now()));
        self.db.create_key(&act("key.create"), KeyRow::draft(tenant.id, name, &secret, digest))?;
        Ok(DemoSeed { secret, model: DEMO })
    }

    /// Runs on the calling thread until `stop` is triggered, and then finishes within some seconds, whatever hangs. The
    /// listeners come bound.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread or a descriptor.
    pub fn run(
        self,
        links: (SidecarEnd, Tail),
        listeners: (TcpListener, TcpListener),
        stop: StopSignal,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVER_THREADS)
            // Of one that ends, what others freed meanwhile would stay.
            .on_thread_stop(self.settings.usage.give_back)
            .build()?;
        let mut threads = Vec::new();
        let result = runtime.block_on(self.serve(links, listeners, stop, &mut threads));
        // Not waiting for what hangs in the system's resolver. Dropping the tasks lets the store's threads end.
        runtime.shutdown_background();
        let hanging = join_within(threads, CLOSE_WITHIN);
        if !hanging.is_empty() {
            let threads = hanging.join(", ");
            tracing::warn!(target: "obleth_admin", threads, "threads hang in the disk; the sidecar ends without them");
        }
        result
    }

    async fn serve(
        self,
        (link, tail): (SidecarEnd, Tail),
        (admin, metrics): (TcpListener, TcpListener),
        stop: StopSignal,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> io::Result<()> {
        let Self { settings, default_upstream, db, keys, usage, .. } = self;
        let (admin, metrics) = (server::adopt(admin)?, server::adopt(metrics)?);
        let (store, handles) = Store::start(db, keys)?;
        threads.extend(handles);
        let (ledger, handles) = usage.start(&settings.usage, &tail)?;
        threads.extend(handles);
        let pump = Arc::new(Pump::new(link, settings.key_cache_entries));
        let limits = Arc::new(LimitDesk::new(Arc::clone(&pump)));
        let log = (tail.clone(), settings.usage.log.clone());
        let watch = Watch::new(log, (ledger.clone(), store.clone()), &limits);
        let keeper = Arc::clone(&watch.keeper);
        let app = assemble(&settings, default_upstream, (store, ledger.clone()), (pump, limits, keeper));
        let shipping = Arc::new(Shipping::default());
        let log = (tail.clone(), Arc::clone(&shipping));
        let build = (settings.version, settings.commit);
        let figures = (log, Arc::clone(&watch.figures));
        let probes = Probes::new(Arc::clone(&app.pump), Arc::clone(&app.sampler), figures, build);
        let pump = Arc::clone(&app.pump).run(app.store.clone());
        let names = Arc::clone(&app.publisher);
        let keeper = Arc::clone(&app.keeper);
        let give_back = settings.usage.give_back;
        let shipper = Shipper { tail, ledger, names, shipping, keeper, give_back };
        let shipper = tokio::spawn(shipper.run(stop.clone()));
        let watch = watch.run(Arc::clone(&app.pump), app.store.clone(), settings.alert_webhook.clone());
        tokio::spawn(watch);
        let background = tokio::spawn(start_publishing(Arc::clone(&app)));
        let admin = server::serve(admin, api::router(Arc::clone(&app)), stop.clone());
        let metrics = server::serve(metrics, metrics::router(probes), stop);
        let (admin, metrics) = (tokio::spawn(admin), tokio::spawn(metrics));
        let shipped = async {
            match shipper.await {
                Ok(ended) => ended,
                Err(_) => Err(io::Error::other("the sidecar's shipper died")),
            }
        };
        let served = async {
            // One that panicked has said so itself.
            drop(tokio::join!(admin, metrics));
            Ok(())
        };
        tracing::info!(target: "obleth_admin", "the sidecar is up");
        tokio::select! {
            ended = pump => return ended,
            _ = background => return Err(io::Error::other("the sidecar's publisher ended")),
            done = async { tokio::try_join!(served, shipped) } => done.map(drop)?,
        }
        tracing::info!(target: "obleth_admin", "the sidecar stops");
        Ok(())
    }
}

fn assemble(
    settings: &Settings,
    default_upstream: Option<(ApiBase, Option<Secret>)>,
    (store, ledger): (Store, Ledger),
    (pump, limits, keeper): (Arc<Pump>, Arc<LimitDesk>, Arc<Keeper>),
) -> App {
    let names = Arc::new(Names::new(resolve::ask_system, settings.networks, settings.known_names.clone()));
    let has_default_upstream = default_upstream.is_some();
    let defaults = Defaults {
        upstream: default_upstream,
        timers: settings.default_timers,
        model_max_in_flight: settings.default_model_max_in_flight,
        brownout: settings.brownout_default,
        ceiling: settings.global_max_in_flight,
    };
    let publisher = Arc::new(Publisher::new(defaults, Arc::clone(&names), Arc::clone(&pump)));
    Arc::new(Shared {
        sampler: Arc::new(Sampler::new(Arc::clone(&pump), Arc::clone(&publisher))),
        publisher,
        store,
        ledger,
        limits,
        keeper,
        pump,
        names,
        token: TokenDigest::of(&settings.admin_token),
        pepper: settings.pepper.clone(),
        has_default_upstream,
        global_max_in_flight: settings.global_max_in_flight,
        version: settings.version,
        commit: settings.commit,
        unpublished: Notify::new(),
    })
}

/// Publishes the limits and then the first snapshot; after that keeps names and periods fresh and makes up for what could
/// not be published.
async fn start_publishing(app: App) {
    let registry = read_until_it_works(&app, |db, limits| {
        let (registry, keys) = (db.registry()?, db.limited_keys()?);
        limits.load(&registry, &keys);
        Ok(registry)
    });
    let registry = registry.await;
    app.publisher.prepare(&registry);
    let silent = || {};
    // A name that takes longer is resolved by the task below.
    let _ = timeout(FIRST_NAMES, app.names.refresh(&silent)).await;
    let lives = app.pump.lives();
    app.limits.publish(&*app.keeper).await;
    app.publisher.publish(registry);
    let publisher = Arc::clone(&app.publisher);
    let refresh = Arc::clone(&app.names).run(move || publisher.republish());
    let reread = async {
        loop {
            app.unpublished.notified().await;
            let registry = read_until_it_works(&app, |db, limits| {
                db.registry().inspect(|registry| limits.follow(registry))
            });
            app.publisher.publish(registry.await);
        }
    };
    tokio::join!(refresh, reread, app.sampler.run(), app.limits.run(lives, &*app.keeper));
}

/// `read` runs on the store's thread.
async fn read_until_it_works(
    app: &App,
    read: fn(&mut Db, &LimitDesk) -> Result<Registry, StoreError>,
) -> Registry {
    loop {
        let limits = Arc::clone(&app.limits);
        match app.store.call(move |db| read(db, &limits)).await {
            Ok(registry) => return registry,
            Err(_) => sleep(REREAD_PAUSE).await,
        }
    }
}
