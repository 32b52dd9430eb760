//! Events on their way to a real server.

use std::{convert::Infallible, net::SocketAddr, sync::Mutex};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use obleth_policy::{
    id::TenantId,
    limit::{Measure, Meter, Scope},
    unit::UnixMs,
};
use rustls::RootCertStore;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::{
    authorities,
    budget::book::{Alert, Cause},
};

/// A receiver that answers with each of these in turn, and then with 204.
#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<Vec<u16>>>,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start(&self, answers: &[u16]) -> SocketAddr {
        *self.answers.lock().unwrap() = answers.iter().rev().copied().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        let receive = async move |headers: HeaderMap, body: Bytes| {
            this.got.lock().unwrap().push((headers, body));
            let answer = this.answers.lock().unwrap().pop().unwrap_or(204);
            Ok::<_, Infallible>(StatusCode::from_u16(answer).unwrap())
        };
        let router = Router::new().route("/hook", post(receive));
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        address
    }

    fn tries(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

fn event(cause: Cause) -> Event {
    let meter =
        Meter { scope: Scope::Tenant(TenantId(Uuid::from_u128(7))), measure: Measure::MonthlyMicroUsd };
    let (since, ends) = (UnixMs(1_793_491_200_000), UnixMs(1_796_083_200_000));
    let alert = Alert { meter, since, ends, limit: 1000, spent: 801, cause };
    Event::of(&alert, Some("chatbot".to_owned()))
}

fn to(url: String, figures: &Arc<BudgetFigures>) -> (Webhook, Delivery) {
    let settings = AlertWebhook { url, secret: Some(Secret::new("whsec-of-a-test")) };
    let (webhook, delivery) =
        Webhook::new(&settings, authorities::trusting(RootCertStore::empty()), figures).unwrap();
    (webhook, Delivery { pauses: [Duration::from_millis(1); PAUSES.len()], ..delivery })
}

/// Sends one event and waits for its fate.
async fn delivered(url: String) -> u64 {
    let figures = Arc::new(BudgetFigures::default());
    let (webhook, delivery) = to(url, &figures);
    webhook.send(&event(Cause::Threshold(80)));
    drop(webhook);
    delivery.run().await;
    figures.undelivered()
}

#[tokio::test]
async fn an_event_arrives_whole_and_its_signature_is_that_of_the_time_and_the_body() {
    let receiver = Receiver::default();
    let address = receiver.start(&[]).await;
    assert_eq!(delivered(format!("http://{address}/hook")).await, 0);
    let got = receiver.got.lock().unwrap();
    let [(headers, body)] = got.as_slice() else { panic!("{got:?}") };
    let value: serde_json::Value = serde_json::from_slice(body).unwrap();
    for (name, expected) in [
        ("type", "budget.threshold"),
        ("scope", "tenant"),
        ("scope_id", "00000000-0000-0000-0000-000000000007"),
        ("name", "chatbot"),
        ("period", "monthly"),
        ("unit", "micro_usd"),
        ("begins_at", "2026-11-01T00:00:00Z"),
        ("resets_at", "2026-12-01T00:00:00Z"),
    ] {
        assert_eq!(value[name], expected, "{name}");
    }
    assert_eq!(
        (&value["limit"], &value["spent"], &value["threshold"]),
        (&1000.into(), &801.into(), &80.into())
    );
    assert!(Uuid::try_parse(value["id"].as_str().unwrap()).is_ok());

    let signature = headers[SIGNATURE].to_str().unwrap();
    let (time, digits) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    assert!((clock::now().0 / 1000 - time.parse::<i64>().unwrap()).abs() < 60);
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(body);
    let digest = Hmac::<Sha256>::new_from_slice(b"whsec-of-a-test").unwrap().chain_update(signed);
    assert_eq!(digits, random::hex(&digest.finalize().into_bytes()));
    // By another program: printf '1793491200.{}' | openssl dgst -sha256 -hmac secret
    let known = "t=1793491200,v1=e95113f1e83deaee99146b2c0526420284cde289ef0910130297b2ad5a1b0b8d";
    assert_eq!(super::signature(&Secret::new("secret"), 1_793_491_200, "{}"), known);
}

#[test]
fn a_refusal_is_an_event_of_its_own() {
    let value = serde_json::to_value(event(Cause::Refusal)).unwrap();
    let of = |member: &str| value[member].clone();
    assert_eq!((of("type"), of("threshold")), ("budget.refused".into(), serde_json::Value::Null));
    assert_eq!((of("spent"), of("limit")), (801.into(), 1000.into()));
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_a_few_times_and_one_that_refuses_is_not() {
    let tries = PAUSES.len() + 1;
    for (answers, many, lost) in
        [(vec![500, 503, 429, 408], 5, 0), (vec![500; 99], tries, 1), (vec![400], 1, 1), (vec![301], 1, 1)]
    {
        let receiver = Receiver::default();
        let address = receiver.start(&answers).await;
        assert_eq!(delivered(format!("http://{address}/hook")).await, lost, "{answers:?}");
        assert_eq!(receiver.tries(), many, "{answers:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(delivered(format!("http://{nobody}/hook")).await, 1);
}

#[tokio::test]
async fn events_that_find_no_room_are_counted_and_hold_nobody_up() {
    let figures = Arc::new(BudgetFigures::default());
    let (webhook, _delivery) = to("http://127.0.0.1:9/".to_owned(), &figures);
    for _ in 0..QUEUE + 3 {
        webhook.send(&event(Cause::Threshold(80)));
    }
    assert_eq!(figures.undelivered(), 3);
}

#[tokio::test]
async fn over_tls_an_event_goes_to_a_server_that_is_believed_and_to_no_other() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let chain = vec![certified.cert.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth().with_single_cert(chain.clone(), key).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::new(server);
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for tcp in listener.incoming() {
            let mut session = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
            let mut tcp = tcp.unwrap();
            let mut stream = rustls::Stream::new(&mut session, &mut tcp);
            // One that does not believe us leaves.
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            }
        }
    });
    for (is_believed, lost) in [(true, 0), (false, 1)] {
        let mut roots = RootCertStore::empty();
        if is_believed {
            roots.add(chain[0].clone()).unwrap();
        }
        let figures = Arc::new(BudgetFigures::default());
        let settings = AlertWebhook { url: format!("https://localhost:{port}/hook"), secret: None };
        let (webhook, delivery) = Webhook::new(&settings, authorities::trusting(roots), &figures).unwrap();
        webhook.send(&event(Cause::Threshold(80)));
        drop(webhook);
        Delivery { pauses: [Duration::from_millis(1); PAUSES.len()], ..delivery }.run().await;
        assert_eq!(figures.undelivered(), lost);
    }
}

#[test]
fn addresses_are_judged_before_anything_is_sent() {
    for good in ["http://a", "https://alerts.example/obleth?x=1", "http://[::1]:9/"] {
        assert_eq!(check_webhook_url(good), Ok(()), "{good}");
    }
    for bad in ["", "alerts.example", "ftp://a/", "https://user:pw@a/", "http:///x", "http://a/#b"] {
        assert_eq!(check_webhook_url(bad), Err(NoWebhook), "{bad}");
    }
}
