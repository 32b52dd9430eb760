//! Accepts connections, and holds what they share: options, counts, the concurrency limit.
//!
//! [`serve`] runs on the caller's runtime until told to stop; [`spawn`] makes a thread and a runtime for it. Stopping
//! closes every connection at once, as a killed backend would.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::connection;
use crate::counters::Counters;
use crate::gate::Gate;
use crate::options::Options;
use crate::tls::Tls;

/// How long to leave a listener alone that has no descriptors for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What all connections share.
pub(crate) struct Site {
    options: Mutex<Arc<Options>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) tls: Option<Tls>,
}

impl Site {
    fn new(options: Options, counters: Arc<Counters>) -> Arc<Self> {
        let gate = Arc::new(Gate::default());
        gate.set_limit(options.max_concurrency);
        counters.keep_journal(options.journal);
        let tls = options.tls.clone();
        Arc::new(Self { options: Mutex::new(Arc::new(options)), counters, gate, tls })
    }

    /// The options as they are now.
    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.lock())
    }

    /// Merges a JSON object into the options.
    pub(crate) fn change_options(&self, changes: &[u8]) -> Result<Arc<Options>, String> {
        let changed = {
            let mut options = self.lock();
            *options = Arc::new(options.merged(changes)?);
            Arc::clone(&options)
        };
        self.gate.set_limit(changed.max_concurrency);
        self.counters.keep_journal(changed.journal);
        Ok(changed)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Options>> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves connections of `listener` until `stop` is ready. `options.listen` is not looked at.
///
/// # Errors
/// None after the start: a failed accept is logged and repeated.
pub async fn serve(listener: TcpListener, options: Options, stop: impl Future) -> io::Result<()> {
    accept(listener, Site::new(options, Arc::default()), stop).await;
    Ok(())
}

async fn accept(listener: TcpListener, site: Arc<Site>, stop: impl Future) {
    let mut stop = pin!(stop);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection::run(stream, Arc::clone(&site)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stop => return,
        }
    }
}

/// A backend on a thread of its own. Stops when dropped.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its counts.
    pub counters: Arc<Counters>,
    tls: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Its address as a URL without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// Closes the listener and every connection, and returns when that is done.
    pub fn stop(self) {}
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the backend's thread was printed by it; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Starts a backend on a thread of its own, listening at `options.listen`.
///
/// # Errors
/// The address cannot be bound, or the thread or its runtime cannot be made.
pub fn spawn(options: Options) -> io::Result<Handle> {
    let listener = StdListener::bind(options.listen)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counters = Arc::<Counters>::default();
    let tls = options.tls.is_some();
    let site = Site::new(options, Arc::clone(&counters));
    let (stop, stopped) = oneshot::channel();
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let thread = std::thread::Builder::new()
        .name("obleth-upstream".to_owned())
        .spawn(move || runtime.block_on(accept(listener, site, stopped)))?;
    Ok(Handle { addr, counters, tls, stop: Some(stop), thread: Some(thread) })
}
