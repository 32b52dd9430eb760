//! The connection to the server: statements, questions and batches, each with its limit of time.
//!
//! Nothing is known here of the order of things; see `schema.rs` and `sink.rs`. It must never say a password.

use std::time::Duration;

use clickhouse::{Client, query::Query};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use obleth_policy::snapshot::Secret;
use tokio::time::timeout;

use super::fault::ClickHouseFault;
use crate::authorities;

/// Longest wait for a connection. Without a limit the kernel waits for two minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Below the server's own, which is 3 s, so that it does not close what is just being used.
const IDLE_FOR: Duration = Duration::from_secs(2);
/// Longest wait for room in the socket while a batch is sent.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the word that a batch is in. The server itself gives up then.
const INSERT_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for statements of the schema.
const STATEMENT_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for the answer to a report.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What the server is given less than we wait ourselves, so that its own word arrives.
const SERVERS_PART: Duration = Duration::from_secs(2);
/// Bytes of a batch that are compressed and sent at a time.
const CHUNK: usize = 1 << 18;
/// Rows that the server puts into one block: more than any batch has, because a deduplication token is for one block.
const BLOCK_ROWS: &str = "1048576";

/// What must be known of a ClickHouse.
#[derive(Clone, Debug)]
pub struct ClickHouseSettings {
    /// `http://` or `https://`; [`check_clickhouse_url`](super::check_clickhouse_url) judges it. `OBLETH_CLICKHOUSE_URL`.
    pub url: String,
    /// Letters, digits, `_` and `-`; made if it is not there. `OBLETH_CLICKHOUSE_DB`.
    pub database: String,
    /// `OBLETH_CLICKHOUSE_USER`.
    pub user: String,
    /// `OBLETH_CLICKHOUSE_PASSWORD`.
    pub password: Option<Secret>,
}

/// See the module's text. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Server {
    client: Client,
    database: String,
}

impl Server {
    /// Connects to nothing yet.
    pub(super) fn new(settings: &ClickHouseSettings) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let https =
            HttpsConnectorBuilder::new().with_tls_config(authorities::tls()).https_or_http().enable_http1();
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_FOR)
            .build(https.wrap_connector(tcp));
        let password = settings.password.as_ref().map_or("", Secret::expose);
        let client = Client::with_http_client(http)
            .with_url(&settings.url)
            .with_user(&settings.user)
            .with_password(password);
        Self { client, database: settings.database.clone() }
    }

    /// The database that everything is in.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// The table's full name, for statements.
    pub(super) fn table(&self, name: &str) -> String {
        format!("`{}`.`{name}`", self.database)
    }

    /// A question or statement; `{name: Type}` in it stands for a parameter.
    pub(super) fn query(&self, sql: &str) -> Query {
        self.client.query_raw(sql)
    }

    /// Carries out a statement. Names without a database are of ours.
    pub(super) async fn execute(&self, query: Query) -> Result<(), ClickHouseFault> {
        let done = timeout(STATEMENT_WITHIN, query.with_setting("database", &self.database).execute()).await;
        Ok(done.map_err(|_| ClickHouseFault::late())??)
    }

    /// The same for a statement that needs no database, because it makes one.
    pub(super) async fn execute_outside(&self, query: Query) -> Result<(), ClickHouseFault> {
        let done = timeout(STATEMENT_WITHIN, query.execute()).await;
        Ok(done.map_err(|_| ClickHouseFault::late())??)
    }

    /// Asks, and returns all of the answer, in the server's format `RowBinary`.
    pub(super) async fn ask(&self, query: Query) -> Result<Bytes, ClickHouseFault> {
        let seconds = ANSWER_WITHIN.saturating_sub(SERVERS_PART).as_secs().to_string();
        let query = query.with_setting("max_execution_time", seconds);
        let whole = async { query.fetch_bytes("RowBinary")?.collect().await };
        Ok(timeout(ANSWER_WITHIN, whole).await.map_err(|_| ClickHouseFault::late())??)
    }

    /// Puts rows, which come encoded, into a table as one block under a token that is put there at most once.
    pub(super) async fn insert(&self, sql: &str, rows: Vec<u8>, token: &str) -> Result<(), ClickHouseFault> {
        let seconds = INSERT_WITHIN.saturating_sub(SERVERS_PART).as_secs().to_string();
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_setting("insert_deduplication_token", token)
            .with_setting("insert_deduplicate", "1")
            // The answer means that the rows are in, and they are one block.
            .with_setting("async_insert", "0")
            .with_setting("max_insert_block_size", BLOCK_ROWS)
            .with_setting("min_insert_block_size_rows", BLOCK_ROWS)
            // A clock that went astray must not end the shipping.
            .with_setting("max_partitions_per_insert_block", "0")
            .with_setting("max_execution_time", seconds)
            .with_timeouts(Some(SEND_WITHIN), Some(INSERT_WITHIN));
        let mut rest = Bytes::from(rows);
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            insert.send(chunk).await?;
        }
        Ok(insert.end().await?)
    }
}
