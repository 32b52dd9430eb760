//! HTTP for the admin and metrics listeners: accepts, bounds, and ends connections.
//!
//! hyper directly, for the limits that `axum::serve` does not offer: without them one slow client per
//! connection could hold the sidecar's descriptors for ever.

use std::{net, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{patience::Patient, stop::StopSignal};

/// Connections of one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// Time for a head to arrive, from the moment the connection is ready for one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head.
const HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of one head.
const HEADERS: usize = 100;
/// How long answers that are under way may take once the sidecar stops.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: the kernel has no descriptor left, and asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener of the standard library as the runtime's.
///
/// # Errors
/// The kernel's.
pub(crate) fn adopt(listener: net::TcpListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until the stop signal, then gives what is under way [`GRACE`] to finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: StopSignal) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = accept => next,
            () = stop.wait() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    converse(stream, router, stop).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    // What is not done by then is cut when the set is dropped.
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn converse(stream: TcpStream, router: Router, stop: StopSignal) {
    // Without it an answer may wait for the client's delayed acknowledgement; it is no reason to refuse.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Patient::new(stream)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // A broken connection is the client's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.wait() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
