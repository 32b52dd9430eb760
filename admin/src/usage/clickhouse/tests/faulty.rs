//! A way to the server that can be made faulty: it loses answers, cuts requests, or holds them back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

const SOUND: u8 = 0;
const LOSES_ANSWERS: u8 = 1;
const CUTS: u8 = 2;
const HOLDS: u8 = 3;
/// What ends a request with a body in chunks.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// A proxy on a port of its own. On drop it takes no more connections.
pub(crate) struct Way {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    mode: AtomicU8,
    bytes: AtomicU64,
    lost: AtomicU64,
    /// Ends the connections of the mode before.
    changed: Notify,
    /// A whole request is held back.
    held: Notify,
    /// It may go on now.
    released: Notify,
    /// It was answered.
    answered: Notify,
}

impl Way {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    tokio::select! {
                        () = state.changed.notified() => {}
                        () = carry(client, server, &state) => {}
                    }
                });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn sound(&self) {
        self.change(SOUND);
    }

    /// Requests arrive, and answers come, and nobody hears of them.
    pub(crate) fn loses_answers(&self) {
        self.change(LOSES_ANSWERS);
    }

    /// Connections end after so many bytes of a request.
    pub(crate) fn cuts_after(&self, bytes: u64) {
        self.state.bytes.store(bytes, Ordering::Relaxed);
        self.change(CUTS);
    }

    /// The next request stays here once it is whole, whatever becomes of its sender. Returns when that is so.
    pub(crate) async fn holds_one(&self) {
        self.change(HOLDS);
        self.state.held.notified().await;
    }

    /// Lets it go on, and returns when it has been answered.
    pub(crate) async fn releases_it(&self) {
        self.state.released.notify_one();
        self.state.answered.notified().await;
    }

    fn change(&self, mode: u8) {
        self.state.mode.store(mode, Ordering::Relaxed);
        self.state.changed.notify_waiters();
    }

    /// How many answers were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The errors are those that the tests are about.
async fn carry(mut client: TcpStream, server: SocketAddr, state: &State) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    match state.mode.load(Ordering::Relaxed) {
        LOSES_ANSWERS => {
            let (mut from_client, _to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut answer = [0; 1024];
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                Ok(1..) = from_server.read(&mut answer) => { state.lost.fetch_add(1, Ordering::Relaxed); }
            }
        }
        CUTS => {
            let (from_client, _to_client) = client.split();
            let mut part = from_client.take(state.bytes.load(Ordering::Relaxed));
            let _ = tokio::io::copy(&mut part, &mut server).await;
            let _ = server.shutdown().await;
        }
        HOLDS => {
            let (mut request, mut answer) = (Vec::new(), [0; 1024]);
            while !request.ends_with(END) && client.read_buf(&mut request).await.is_ok_and(|bytes| bytes > 0)
            {
            }
            state.held.notify_one();
            state.released.notified().await;
            let _ = server.write_all(&request).await;
            let _ = server.read(&mut answer).await;
            state.answered.notify_one();
        }
        _ => {
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    }
}
