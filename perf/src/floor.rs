//! The floor: a forwarder that parses nothing. What it costs, nobody who forwards can avoid.
//!
//! One thread on io_uring with the ring flags of a shard: one upstream connection per client connection, bytes
//! moved as they come, both ways. It must never look at a byte, and never drop a read or write under way.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result};
use monoio::{
    IoUringDriver, LegacyDriver, RuntimeBuilder,
    io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable},
    net::{ListenerOpts, TcpListener, TcpStream},
    time::TimeDriver,
};

use crate::terminal::say;

/// Entries of the submission ring, as a shard has them: the two are compared.
const RING_ENTRIES: u32 = 4096;
/// Bytes moved at once. A smaller buffer costs large answers more turns; every connection has two.
const BUFFER: usize = 16 << 10;
/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Forwards until the process is ended.
///
/// # Errors
/// The port cannot be had, or the kernel gives neither io_uring nor epoll.
pub(crate) fn run(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let mut tuned = io_uring::IoUring::builder();
    tuned.setup_single_issuer().setup_defer_taskrun();
    let ring = RuntimeBuilder::<TimeDriver<IoUringDriver>>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(tuned)
        .build();
    match ring {
        Ok(mut runtime) if monoio::utils::detect_uring() => runtime.block_on(accept(listen, to, "io_uring")),
        _ => {
            let mut runtime = RuntimeBuilder::<TimeDriver<LegacyDriver>>::new().build()?;
            runtime.block_on(accept(listen, to, "epoll"))
        }
    }
}

async fn accept(listen: SocketAddr, to: SocketAddr, driver: &str) -> Result<()> {
    let options = ListenerOpts::new().backlog(BACKLOG);
    let listener = TcpListener::bind_with_config(listen, &options).context("the floor cannot listen")?;
    say(&format!("floor ready: http://{}, on {driver}", listener.local_addr()?));
    loop {
        let (client, _) = listener.accept().await.context("the floor cannot accept")?;
        monoio::spawn(async move {
            // A broken connection is its client's to notice.
            let _ = forward(client, to).await;
        });
    }
}

/// Moves bytes both ways until both sides have ended.
async fn forward(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect_addr(to).await?;
    upstream.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    monoio::spawn(async move {
        let _ = pump(from_upstream, to_client).await;
    });
    pump(from_client, to_upstream).await
}

/// Moves bytes one way until their end, and passes the end on.
async fn pump(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (read, filled) = from.read(buffer).await;
        if !matches!(read, Ok(count) if count > 0) {
            to.shutdown().await?;
            return read.map(|_| ());
        }
        let (written, emptied) = to.write_all(filled).await;
        written?;
        buffer = emptied;
        buffer.clear();
    }
}
