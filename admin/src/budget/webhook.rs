//! Events to an address of the operator's: signed, tried again a few times, and never waited for.
//!
//! The receiver checks `x-obleth-signature: t=<unix seconds>,v1=<hex>`, where the hex digits are the HMAC-SHA-256 of
//! `<unix seconds>.<body>` with the shared secret, and knows an event that comes twice by its `id`. It must never say the
//! secret, nor the whole address, which may hold a token.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use hmac::{Hmac, KeyInit, Mac};
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use obleth_policy::snapshot::Secret;
use rustls::ClientConfig;
use sha2::Sha256;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{sleep, timeout},
};

use super::alert::{BudgetFigures, Event};
use crate::{clock, random};

/// Events that may wait; one more is lost and counted.
const QUEUE: usize = 256;
/// Pauses before the second try and each one after it.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25), Duration::from_secs(125)];
/// Longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest that one try may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What the signature stands in.
const SIGNATURE: &str = "x-obleth-signature";

/// Where events go.
#[derive(Clone, Debug)]
pub struct AlertWebhook {
    /// `http://` or `https://`; [`check_webhook_url`] judges it. `OBLETH_ALERT_WEBHOOK_URL`.
    pub url: String,
    /// Signs what is sent. `OBLETH_ALERT_WEBHOOK_SECRET`.
    pub secret: Option<Secret>,
}

/// Why an address is none. The text never repeats the address, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an address that events can be sent to; write it like `https://alerts.example/obleth`")]
pub struct NoWebhook;

/// Judges the address: scheme, host, and no credentials in it.
///
/// # Errors
/// It is none.
pub fn check_webhook_url(url: &str) -> Result<(), NoWebhook> {
    let uri: Uri = url.parse().map_err(|_| NoWebhook)?;
    let authority = uri.authority().ok_or(NoWebhook)?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty() && !url.contains('#');
    if is_http && is_plain { Ok(()) } else { Err(NoWebhook) }
}

/// The way to the webhook's task.
#[derive(Debug)]
pub(crate) struct Webhook {
    queue: Sender<String>,
    figures: Arc<BudgetFigures>,
}

/// The task. See the module's text.
pub(crate) struct Delivery {
    taken: Receiver<String>,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    to: Uri,
    secret: Option<Secret>,
    figures: Arc<BudgetFigures>,
    pauses: [Duration; PAUSES.len()],
}

/// Why a try came to nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Missed {
    #[error("no connection")]
    Unreachable,
    #[error("no answer within 10 s")]
    Late,
    #[error("status {0}")]
    Status(StatusCode),
}

impl Missed {
    /// Whether another try may come to something.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable | Self::Late => true,
            Self::Status(status) => {
                status.is_server_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
        }
    }
}

impl Webhook {
    /// With its task, which believes the authorities of `tls`. `None` if the address is none.
    pub(crate) fn new(
        settings: &AlertWebhook,
        tls: ClientConfig,
        figures: &Arc<BudgetFigures>,
    ) -> Option<(Self, Delivery)> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let (queue, taken) = channel(QUEUE);
        let delivery = Delivery {
            taken,
            // Events are rare: no connection is kept for the next.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(https.wrap_connector(tcp)),
            to: settings.url.parse().ok()?,
            secret: settings.secret.clone(),
            figures: Arc::clone(figures),
            pauses: PAUSES,
        };
        Some((Self { queue, figures: Arc::clone(figures) }, delivery))
    }

    /// Sends an event some time.
    pub(super) fn send(&self, event: &Event) {
        let body = serde_json::to_string(event).unwrap_or_default();
        if self.queue.try_send(body).is_err() {
            self.figures.note_undelivered();
            tracing::warn!(target: "obleth_budget", event = event.id, "too many events wait for the webhook; one is lost");
        }
    }
}

impl Delivery {
    /// Delivers one event after the other, until nobody sends any more.
    pub(crate) async fn run(mut self) {
        while let Some(body) = self.taken.recv().await {
            if let Err(missed) = self.deliver(&body).await {
                self.figures.note_undelivered();
                let host = self.to.host().unwrap_or_default();
                tracing::warn!(target: "obleth_budget", host, "the webhook did not take an event: {missed}");
            }
        }
    }

    async fn deliver(&self, body: &str) -> Result<(), Missed> {
        let mut pauses = self.pauses.iter();
        loop {
            let Err(missed) = self.post(body).await else { return Ok(()) };
            let pause = pauses.next().filter(|_| missed.may_pass());
            let Some(pause) = pause else { return Err(missed) };
            sleep(*pause).await;
        }
    }

    async fn post(&self, body: &str) -> Result<(), Missed> {
        let mut request = Request::post(self.to.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "obleth");
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE, signature(secret, clock::now().0 / 1000, body));
        }
        let request = request.body(Body::from(body.to_owned())).map_err(|_| Missed::Unreachable)?;
        let answer = timeout(ANSWER_WITHIN, self.client.request(request)).await.map_err(|_| Missed::Late)?;
        let status = answer.map_err(|_| Missed::Unreachable)?.status();
        if status.is_success() { Ok(()) } else { Err(Missed::Status(status)) }
    }
}

fn signature(secret: &Secret, unix_secs: i64, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes());
    // A key of any length will do.
    let digest = mac.map(|mac| mac.chain_update(format!("{unix_secs}.{body}")).finalize().into_bytes());
    let digits = digest.map(|digest| random::hex(&digest)).unwrap_or_default();
    format!("t={unix_secs},v1={digits}")
}

#[cfg(test)]
mod tests;
