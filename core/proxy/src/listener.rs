//! Accepts connections and gives each its task. A panic stays inside the connection that caused it.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use monoio::net::{TcpListener, TcpStream};

use crate::{downstream::Downstream, request, shard::Shard, socket};

/// Pause after a failed accept. Without descriptors left the kernel fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for as long as the shard lives. An accept that has begun is never given up.
pub(crate) async fn accept(shard: Rc<Shard>, listener: TcpListener) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                monoio::spawn(connection(Rc::clone(&shard), stream));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept connections; raise the limit on open files (ulimit -n)");
                }
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(shard: Rc<Shard>, stream: TcpStream) {
    let (reader, writer, handle) = socket::split(stream);
    if let Err(error) = handle.set_cloexec() {
        tracing::debug!(%error, "connection lost before it began");
        return;
    }
    let down = Rc::new(Downstream::new(&shard, writer, handle));
    let number = shard.register(&down);
    {
        let mut life = pin!(down.run(reader, request::serve(&shard, &down)));
        poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                tracing::error!("a connection was closed because of a bug in the gateway; please report it");
                Poll::Ready(())
            }
        })
        .await;
    }
    shard.unregister(number);
}
