//! Every setting of this version, once: name, type, default, parser, meaning.
//!
//! The struct, the reading, the suggestions for unknown names and the README's table all come from these rows.
//! A field that nothing outside the configuration uses is a compiler warning, and warnings fail the tests: a
//! setting that nothing reads cannot be added.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use obleth_admin::{ClickHouseSettings, Networks};
use obleth_policy::{
    network::Cidr,
    snapshot::{Brownout, Secret},
    unit::LimitMs,
};
use obleth_proxy::UpstreamTls;

use super::{
    Fault,
    parse::{
        LogFormat, address, admin_token, base_url, boolean, brownout, bytes, ca_file, clickhouse_db,
        clickhouse_url, count, database, folder, limit, log_format, master_key, maybe, memory, millis,
        networks, node, seconds, secret, visible, webhook_url, whole32,
    },
    source::Sources,
};

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Without `OBLETH_`; in lower case it is the key of the file.
    pub(crate) name: &'static str,
    /// As an operator would write it; empty where there is none.
    pub(crate) default: &'static str,
    /// Also taken from the file that `…_FILE` names, and never shown.
    pub(crate) secret: bool,
    meaning: &'static str,
}

/// What a name without prefix stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name {
    /// The value itself.
    Setting(&'static Setting),
    /// The file that the value lies in.
    SecretFile(&'static Setting),
    /// Something of a later version.
    Later,
    /// Nothing.
    Unknown,
}

macro_rules! settings {
    ($($kind:ident $name:ident $field:ident: $type:ty = $default:literal, $parse:expr, $meaning:literal;)*) => {
        /// The settings, parsed and in range.
        #[derive(Debug)]
        pub(crate) struct Config {
            $(#[doc = $meaning] pub(crate) $field: $type,)*
        }

        /// The rows.
        pub(crate) const TABLE: &[Setting] = &[$(Setting {
            name: stringify!($name),
            default: $default,
            secret: settings!(@ $kind),
            meaning: $meaning,
        }),*];

        /// Parses every setting, and notes every fault before it gives up.
        pub(crate) fn read(sources: &Sources, faults: &mut Vec<Fault>) -> Option<Config> {
            let mut rows = TABLE.iter();
            $(let $field: Option<$type> =
                rows.next().and_then(|setting| value(setting, sources, $parse, faults));)*
            Some(Config { $($field: $field?,)* })
        }
    };
    (@ open) => { false };
    (@ secret) => { true };
}

settings! {
    open PROXY_LISTEN proxy_listen: SocketAddr = "0.0.0.0:8080", address, "data plane: `/v1/*`, `/health`";
    open ADMIN_LISTEN admin_listen: SocketAddr = "127.0.0.1:9090", address, "admin API: `/api/v1/*`";
    open METRICS_LISTEN metrics_listen: SocketAddr = "127.0.0.1:9091", address, "`/metrics`, `/livez`, `/readyz`";
    open CORES cores: Option<u32> = "", maybe(whole32(1..=1024)),
        "data-plane shards, one pinned thread each; unset: one per allowed processor";
    open DATABASE_URL database: Option<PathBuf> = "", maybe(database),
        "`sqlite:PATH`; unset: `obleth.db` in the data folder";
    open USAGE_RETENTION_DAYS usage_retention_days: u32 = "400", whole32(0..=36_500),
        "days that usage records are kept; 0: for ever";
    open CLICKHOUSE_URL clickhouse_url: Option<String> = "", maybe(clickhouse_url),
        "ClickHouse that keeps the usage ledger, over HTTP, as in `http://clickhouse:8123`; unset: a file in the data folder";
    open CLICKHOUSE_DB clickhouse_db: String = "obleth", clickhouse_db, "its database; made if it is not there";
    open CLICKHOUSE_USER clickhouse_user: String = "default", visible, "its user";
    secret CLICKHOUSE_PASSWORD clickhouse_password: Option<Secret> = "", maybe(secret), "that user's password";
    open ALERT_WEBHOOK_URL alert_webhook_url: Option<String> = "", maybe(webhook_url),
        "where events are sent when budgets fill up (80 and 100 %) or refuse a request, as POST with JSON; unset: nowhere";
    secret ALERT_WEBHOOK_SECRET alert_webhook_secret: Option<Secret> = "", maybe(secret), "signs those events";
    open UPSTREAM_BASE_URL upstream_base_url: Option<String> = "", maybe(base_url),
        "backend for models that name none";
    secret UPSTREAM_API_KEY upstream_api_key: Option<Secret> = "", maybe(secret),
        "credential of that backend";
    open UPSTREAM_CA_FILE upstream_ca_file: Option<UpstreamTls> = "", maybe(ca_file),
        "PEM file with the authorities that certificates of `https://` backends must come from; unset: the system's";
    open BLOCK_PRIVATE_NETWORKS block_private_networks: bool = "false", boolean,
        "refuse backends at private addresses; link-local and metadata addresses are always refused";
    secret ADMIN_TOKEN admin_token: Option<Secret> = "", maybe(admin_token),
        "bearer token of the admin API, at least 16 characters; unset: generated into the data folder";
    secret MASTER_KEY master_key: Option<Secret> = "", maybe(master_key),
        "encrypts upstream credentials at rest, 32 bytes as hex or base64; unset: generated into the data folder";
    secret API_KEY_PEPPER api_key_pepper: Option<Secret> = "", maybe(secret),
        "key digests become HMAC-SHA-256 with it; a change makes every key unknown";
    open TRUSTED_PROXIES trusted_proxies: Arc<[Cidr]> = "", networks,
        "addresses and ranges of proxies, separated by commas, whose `X-Forwarded-For` is believed; unset: none";
    open GLOBAL_MAX_IN_FLIGHT global_max_in_flight: u32 = "256", whole32(1..=10_000_000),
        "requests in flight in the process";
    open DEFAULT_MODEL_MAX_IN_FLIGHT default_model_max_in_flight: u32 = "32", whole32(1..=10_000_000),
        "pool size of a model that sets none";
    open ADMISSION_TIMEOUT_MS admission_timeout: Duration = "60000", millis(1..=DAY_MS as u64),
        "longest wait for a slot, then 503; a client that waits less (`x-stainless-timeout`) counts for itself";
    open MAX_QUEUE_DEPTH max_queue_depth: u32 = "8192", whole32(1..=10_000_000),
        "requests that may wait for one model, then 503 at once";
    open MAX_TENANT_QUEUE_DEPTH max_tenant_queue_depth: u32 = "2048", whole32(1..=10_000_000),
        "of those, requests of one tenant, then 503 at once";
    open BROWNOUT_WAIT_MS brownout_wait: Duration = "750", millis(1..=DAY_MS as u64),
        "wait, predicted or real, after which a tenant's brownout policy applies";
    open BROWNOUT_MAX_TOKENS brownout_max_tokens: u32 = "256", whole32(1..=10_000_000),
        "output tokens of an answer that is made shorter";
    open BROWNOUT_DEFAULT brownout_default: Brownout = "never", brownout,
        "policy of tenants that set none: `allow` (a shorter answer), `never` (they wait), `reject` (503)";
    open FAIL_OPEN fail_open: bool = "true", boolean, "a store outage never refuses a known caller";
    open KEY_CACHE_ENTRIES key_cache_entries: usize = "100000", count(1..=100_000_000),
        "keys that one core remembers";
    open KEY_MAX_AGE_MS key_max_age: Duration = "10000", millis(1..=86_400_000),
        "age at which a remembered key is looked up again";
    open KEY_STALE_OK_SECS key_stale_ok: Duration = "86400", seconds(0..=31_536_000),
        "how long a key ever seen works while no store answers";
    open MAX_REQUEST_BYTES max_request_bytes: u64 = "10 MiB", bytes(1 << 10..=4 << 30),
        "largest request body, then 413";
    open MAX_BUFFERED_BYTES max_buffered_bytes: u64 = "1 GiB", bytes(1 << 10..=1 << 50),
        "all request bodies in memory together, then 503";
    open CLIENT_HEAD_TIMEOUT_MS client_head_timeout: Duration = "10000", millis(100..=DAY_MS as u64),
        "from a request head's first byte to its last, then 408";
    open CLIENT_BODY_PAUSE_MS client_body_pause: Duration = "30000", millis(100..=DAY_MS as u64),
        "longest pause in a body, and what an upload has to spare over 16 KiB/s, then 408";
    open CLIENT_IDLE_TIMEOUT_MS client_idle_timeout: Duration = "75000", millis(100..=DAY_MS as u64),
        "how long a client's connection may stay without a request";
    open CLIENT_WRITE_TIMEOUT_MS client_write_timeout: Duration = "60000", millis(100..=DAY_MS as u64),
        "how long a client may take over one piece of its answer (64 KiB as a rule), then it is cut";
    open CLIENT_SILENT_TIMEOUT_MS client_silent_timeout: Duration = "30000", millis(2000..=3_600_000),
        "after this long without a sign of life from its machine, or with nothing taken in, a client has left";
    open UPSTREAM_CONNECT_TIMEOUT_MS upstream_connect_timeout: LimitMs = "2000", limit(DAY_MS),
        "until the connection to a backend stands; 0 is off";
    open UPSTREAM_FIRST_BYTE_TIMEOUT_MS upstream_first_byte_timeout: LimitMs = "300000", limit(DAY_MS),
        "from the request's last byte to the answer's first; 0 is off";
    open UPSTREAM_IDLE_TIMEOUT_MS upstream_idle_timeout: LimitMs = "120000", limit(DAY_MS),
        "between two reads of the answer; 0 is off";
    open UPSTREAM_TOTAL_TIMEOUT_MS upstream_total_timeout: LimitMs = "0", limit(DAY_MS),
        "from dispatch to the answer's last byte; 0 is off";
    open UPSTREAM_KEEPALIVE_MS upstream_keepalive: Duration = "4000", millis(0..=3_600_000),
        "idle time after which a connection to a backend is closed; keep it below the backend's own (vLLM: 5 s)";
    open NODE node: Option<String> = "", maybe(node),
        "what this node is called in the usage ledger; unset: what its usage log says, and in a new one the machine's name";
    open WAL_DIR wal_dir: Option<PathBuf> = "", maybe(folder),
        "folder of the usage log; unset: `wal` in the data folder";
    open WAL_MAX_BYTES wal_max_bytes: u64 = "4 GiB", bytes(64 << 20..=1 << 50),
        "what the usage log may take up while its records cannot be shipped; then they are lost, and counted";
    open WAL_BUFFER_BYTES wal_buffer_bytes: usize = "4 MiB", memory(1 << 20..=1 << 30),
        "room per core for what is not in the usage log yet; it outlives the process";
    open WAL_FSYNC_MS wal_fsync: Duration = "50", millis(1..=10_000),
        "how often the usage log is made safe against a loss of power";
    open DRAIN_TIMEOUT_SECS drain_timeout: Duration = "600", seconds(0..=86_400),
        "how long SIGTERM waits for what is in flight";
    open LOG_FORMAT log_format: LogFormat = "text", log_format, "`text` or `json`, on standard error";
}

impl Config {
    /// Where backends may be.
    pub(crate) fn networks(&self) -> Networks {
        Networks { block_private: self.block_private_networks }
    }

    /// The server that keeps usage, if one does.
    pub(crate) fn clickhouse(&self) -> Option<ClickHouseSettings> {
        self.clickhouse_url.clone().map(|url| ClickHouseSettings {
            url,
            database: self.clickhouse_db.clone(),
            user: self.clickhouse_user.clone(),
            password: self.clickhouse_password.clone(),
        })
    }
}

/// Longest time limit that makes sense, and that a timer can hold.
const DAY_MS: u32 = 86_400_000;

/// Names of the documentation that come with later versions. Setting one is a fault: silence would be taken
/// for consent.
const LATER: &[&str] =
    &["REDIS_URL", "PROXY_PROTOCOL", "CORS_ORIGINS", "TLS_CERT", "TLS_KEY", "OTLP_ENDPOINT", "ACCESS_LOG"];

/// What follows a secret's name when the value lies in a file.
const IN_FILE: &str = "_FILE";

fn value<T>(
    setting: &Setting,
    sources: &Sources,
    parse: impl Fn(&str) -> Result<T, String>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let parsed = sources
        .text(setting)
        .and_then(|(text, place)| parse(&text).map_err(|message| Fault::new(place, message)));
    parsed.map_err(|fault| faults.push(fault)).ok()
}

/// What `name` (upper case, without prefix) stands for.
pub(crate) fn find(name: &str) -> Name {
    let row = |name: &str| TABLE.iter().find(|setting| setting.name == name);
    if let Some(setting) = row(name) {
        return Name::Setting(setting);
    }
    let stem = name.strip_suffix(IN_FILE);
    if let Some(setting) = stem.and_then(row).filter(|setting| setting.secret) {
        return Name::SecretFile(setting);
    }
    let later = |name: &str| LATER.contains(&name);
    if later(name) || stem.is_some_and(later) { Name::Later } else { Name::Unknown }
}

/// Every name that can be set, without prefix.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|setting| setting.name)
}

/// The table as Markdown, for the README and for `obleth check --settings`.
pub(crate) fn markdown() -> String {
    let mut out = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Setting { name, default, secret, meaning } in TABLE {
        let file = if *secret { format!(", `OBLETH_{name}{IN_FILE}`") } else { String::new() };
        let default = if default.is_empty() { "unset".to_owned() } else { format!("`{default}`") };
        out.push_str(&format!("| `OBLETH_{name}`{file} | {default} | {meaning} |\n"));
    }
    out
}
