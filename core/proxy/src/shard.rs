//! Everything that one core owns, and its life from the first snapshot to the end of a drain.
//!
//! A shard serves only after the sidecar has sent it a snapshot. It wakes for its sockets, its alarms and its
//! doorbell, and for nothing else: an idle shard uses no processor.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::TcpListener,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use foldhash::HashMap;
use monoio::net::TcpStream;
use obleth_ledger::Slate;
use obleth_link::{Command, Driver, Event, ShardEnd};
use obleth_policy::snapshot::Snapshot;

use crate::{
    Settings,
    bench::Bench,
    buffers::Buffers,
    credits::Credits,
    death::{Ending, Remains},
    downstream::Downstream,
    keycache::KeyCache,
    listener::{self, Listener},
    pool::Pool,
    request::RequestIds,
    slots::Slots,
    timer::Timers,
    tls::Connector,
    trouble::Trouble,
};

/// After a drain's last request: how long connections may take to send their last bytes and close.
const LINGER: Duration = Duration::from_millis(2500);
/// Pause between tries to ask the sidecar for the configuration while the ring is full.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// The shard's last sleep.
const LAST_SUBMISSION: Duration = Duration::from_millis(2);

/// State of one core. One per shard thread, behind an `Rc`; lives as long as the thread.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) settings: Arc<Settings>,
    pub(crate) end: ShardEnd,
    /// Where the ledger is told of requests.
    pub(crate) ledger: Slate,
    pub(crate) driver: Driver,
    pub(crate) timers: Rc<Timers>,
    pub(crate) buffers: Buffers,
    pub(crate) keys: KeyCache,
    pub(crate) pool: Pool,
    pub(crate) bench: Bench,
    pub(crate) tls: Connector,
    pub(crate) trouble: Trouble,
    pub(crate) slots: Slots,
    pub(crate) credits: Credits,
    pub(crate) request_ids: RequestIds,
    /// No new request is taken on.
    pub(crate) draining: Cell<bool>,
    /// The drain's time is up, or the shard is dead: what is in flight ends now.
    pub(crate) expired: Cell<bool>,
    /// A task that the shard cannot do without has panicked.
    pub(crate) dying: Cell<bool>,
    /// Ends the tasks that serve, when the shard is dead.
    pub(crate) service: Ending,
    /// Ends the alarms after them.
    pub(crate) clockwork: Ending,
    snapshot: RefCell<Option<Rc<Pinned>>>,
    connections: RefCell<HashMap<u64, Weak<Downstream>>>,
    next_connection: Cell<u64>,
    life: RefCell<Option<Waker>>,
}

/// A snapshot as a request holds it. When the last request has let go of it, it goes back to the sidecar.
#[derive(Debug)]
pub(crate) struct Pinned {
    snapshot: Arc<Snapshot>,
    end: ShardEnd,
}

impl std::ops::Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A full ring means that this shard frees it itself.
        let _ = self.end.tell(Event::Retired(Arc::clone(&self.snapshot)));
    }
}

impl Shard {
    /// Lives the shard's life. Returns when a drain is done, or when the shard cannot go on; `remains` are then buried.
    pub(crate) async fn start(
        listener: TcpListener,
        (end, ledger): (ShardEnd, Slate),
        settings: Arc<Settings>,
        driver: Driver,
        remains: Remains,
    ) -> io::Result<()> {
        let listener = Rc::new(Listener::new(listener, driver)?);
        let bell = TcpStream::from_std(end.bell().fd().try_clone_to_owned()?.into())?;
        let timers = Timers::new(end.epoch());
        let shard = Rc::new(Self {
            slots: Slots::new(end.new_life(), &timers),
            credits: Credits::new(end.new_life(), &timers),
            buffers: Buffers::default(),
            keys: KeyCache::new(&settings),
            pool: Pool::new(&settings, &timers),
            bench: Bench::default(),
            tls: Connector::new(&settings.upstream_tls),
            trouble: Trouble::default(),
            request_ids: RequestIds::new()?,
            settings,
            end,
            ledger,
            driver,
            timers,
            draining: Cell::new(false),
            expired: Cell::new(false),
            dying: Cell::new(false),
            service: Ending::default(),
            clockwork: Ending::default(),
            snapshot: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            life: RefCell::default(),
        });
        let gauges = shard.end.gauges();
        gauges.thread.set(u64::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0));
        *remains.borrow_mut() = Some(Rc::clone(&shard));
        shard.keep_timers();
        shard.keep(Rc::clone(&shard).listen_to_link(bell));
        shard.keep(Rc::clone(&shard).reap_pool());
        shard.keep(Rc::clone(&shard).report_service());
        shard.keep(Rc::clone(&shard).say_what_was_used());
        shard.speak();
        shard.speak_of_credits();
        shard.announce().await;
        shard.until(|shard| shard.snapshot.borrow().is_some() || shard.draining.get()).await;
        shard.keep(listener::accept(Rc::clone(&shard), Rc::clone(&listener)));
        gauges.start_serving(driver);
        tracing::info!(shard = shard.end.shard, driver = driver.as_str(), "shard serves");
        shard.drain_when_told().await;
        if shard.dying.get() {
            return Err(io::Error::other("a part of it that it cannot do without panicked"));
        }
        listener.close();
        gauges.stop_serving();
        // On io_uring a dropped socket is closed by an entry in the ring, and the ring is handed in when the shard
        // sleeps: without this, connections that ended last would stay open until the process ends.
        monoio::time::sleep(LAST_SUBMISSION).await;
        Ok(())
    }

    /// Asks the sidecar for the configuration, until the ring takes it: after a restart it may be full of what the
    /// shard said before, and a shard that nobody heard of would wait for ever. Ends when there is nothing to ask.
    async fn announce(&self) {
        while self.snapshot.borrow().is_none() && !self.draining.get() && !self.dying.get() {
            if self.end.tell(Event::Started).is_ok() {
                return;
            }
            monoio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The configuration of the moment, for a request that starts now.
    pub(crate) fn pin(&self) -> Option<Rc<Pinned>> {
        self.snapshot.borrow().clone()
    }

    /// A connection begins; the number ends it.
    pub(crate) fn register(&self, connection: &Rc<Downstream>) -> u64 {
        let number = self.next_connection.get();
        self.next_connection.set(number.wrapping_add(1));
        self.connections.borrow_mut().insert(number, Rc::downgrade(connection));
        self.end.gauges().connections.add(1);
        number
    }

    /// A connection has ended.
    pub(crate) fn unregister(&self, number: u64) {
        self.connections.borrow_mut().remove(&number);
        self.end.gauges().connections.sub(1);
        self.stir();
    }

    /// Has the shard's own task look at what has changed.
    pub(crate) fn stir(&self) {
        if let Some(waker) = self.life.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Waits until something holds, or the shard is dying.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        poll_fn(|cx| {
            *self.life.borrow_mut() = Some(cx.waker().clone());
            if holds(self) || self.dying.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Handles what the sidecar and the coordinator say as it comes, and sleeps by the doorbell in between.
    async fn listen_to_link(self: Rc<Self>, bell: TcpStream) {
        loop {
            self.timers.clock().now();
            while let Some(command) = self.end.take() {
                self.obey(command);
            }
            while let Some((life, down)) = self.end.take_down() {
                self.hear(life, down);
            }
            while let Some((life, down)) = self.end.take_credit() {
                self.hear_of_credits(life, down);
            }
            self.speak();
            self.speak_of_credits();
            self.end.bell().going_to_sleep();
            if !self.end.has_command() {
                // Only readiness: the eventfd is read by the bell itself. An error cannot last, and the
                // loop looks at the ring either way.
                let _ = bell.readable(false).await;
            }
            self.end.bell().awake();
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Snapshot(snapshot) => {
                tracing::debug!(shard = self.end.shard, generation = snapshot.generation, "new snapshot");
                let pinned = Pinned { snapshot, end: self.end.clone() };
                *self.snapshot.borrow_mut() = Some(Rc::new(pinned));
            }
            Command::KeyAnswer(digest, answer) => {
                self.keys.answered(digest, answer, self.timers.clock().now());
            }
            Command::KeyChanged(digest) => self.keys.forget(&digest),
            Command::AllKeysChanged => self.keys.doubt_all(),
            Command::Ping(number) => self.end.beat(number),
            Command::Drain => self.draining.set(true),
        }
        self.stir();
    }

    /// Closes pooled connections as their time comes. After the last one the shard is quiet, for now.
    async fn reap_pool(self: Rc<Self>) {
        loop {
            self.pool.until_due().await;
            if self.pool.close_expired() {
                self.give_back();
            }
        }
    }

    /// Gives back what a busier time took. What is in use stays as it is.
    fn give_back(&self) {
        self.buffers.let_go();
        self.timers.tidy();
        self.connections.borrow_mut().shrink_to_fit();
        (self.settings.give_back)();
    }

    pub(crate) fn each_connection(&self, act: impl Fn(&Downstream)) {
        let connections: Vec<_> = self.connections.borrow().values().filter_map(Weak::upgrade).collect();
        connections.iter().for_each(|connection| act(connection));
    }

    /// Waits for the drain and carries it out: requests in flight may finish, connections without one are
    /// closed, new requests are refused; when the time is up, what is left ends with an error.
    async fn drain_when_told(self: &Rc<Self>) {
        self.until(|shard| shard.draining.get()).await;
        if self.dying.get() {
            return;
        }
        tracing::info!(shard = self.end.shard, "draining");
        self.each_connection(Downstream::close_if_idle);
        let deadline = self.timers.alarm();
        deadline.set_in(Some(self.settings.drain_timeout));
        if !self.until_or(&deadline, Self::is_idle).await {
            tracing::warn!(shard = self.end.shard, "drain timeout: requests in flight are cut");
            self.expired.set(true);
            self.each_connection(Downstream::wake);
        }
        deadline.set_in(Some(LINGER));
        self.until_or(&deadline, |shard| shard.connections.borrow().is_empty()).await;
        self.each_connection(Downstream::close);
    }

    /// Whether no connection has a request, from its first byte to its answer's last.
    fn is_idle(&self) -> bool {
        self.connections.borrow().values().all(|down| down.upgrade().is_none_or(|down| down.is_idle()))
    }

    /// Waits until something holds or the shard is dying (true) or the alarm fires (false).
    async fn until_or(&self, alarm: &crate::timer::Alarm, holds: impl Fn(&Self) -> bool) -> bool {
        poll_fn(|cx| {
            *self.life.borrow_mut() = Some(cx.waker().clone());
            if holds(self) || self.dying.get() {
                return Poll::Ready(true);
            }
            if alarm.poll_fired(cx) { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
    }
}
