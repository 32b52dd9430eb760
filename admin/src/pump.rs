//! The only user of the sidecar's link end: events of the shards and reports of the coordinator in, commands and
//! orders out.
//!
//! Every state change goes out synchronously, before the admin API answers, and to the coordinator first; what a full
//! ring refuses is kept and merged in an [`Outbox`] or in [`Orders`]. A look-up whose key is edited while it runs is
//! made again, so an answer that leaves after an edit is never older than it. Nothing here waits while it holds the
//! lock.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use obleth_link::{Command, Event, Gauges, Order, Report, ShardGauges, SidecarEnd};
use obleth_policy::{
    key::{KeyAnswer, KeyDigest, KeyRecord},
    limit::{Correction, Definition, LimitBook, Meter, Standing},
    snapshot::Snapshot,
    unit::UnixMs,
};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{sleep, timeout},
};

use crate::{
    bell::AsyncBell,
    looks::{Looks, Next},
    orders::{Look, Orders},
    outbox::Outbox,
    seen::SeenKeys,
    store::{Store, fault::Fault, rows::KeyChange},
};

/// Events taken from one shard before others get their turn.
const BATCH: usize = 512;
/// First and longest pause between tries to fill a ring that was full. Edits must reach every core within
/// 100 ms.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Pause between two looks at the limits: the coordinator copies the books of every meter for one.
const LIMITS_PAUSE: Duration = Duration::from_millis(250);

/// Budgets that are used up, until who listens has heard of them. Who listens too slowly misses the oldest.
const EXHAUSTED: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pump {
    end: SidecarEnd,
    state: Mutex<State>,
    /// Rings whenever a shard may have answered a ping.
    beats: Notify,
    /// Rings when something had to be kept.
    kept: Notify,
    /// Rings when the coordinator has answered a look.
    looked: Notify,
    /// Rings when a shard has said something: there may be traffic.
    stirred: Notify,
    /// Lives of the coordinator that have begun.
    lives: watch::Sender<u64>,
    /// Lives of shards that have begun.
    shard_lives: watch::Sender<u64>,
    exhausted: broadcast::Sender<(Meter, UnixMs)>,
}

#[derive(Debug)]
struct State {
    orders: Orders,
    outboxes: Vec<Outbox>,
    flights: HashMap<KeyDigest, Flight>,
    seen: SeenKeys,
    snapshot: Option<Arc<Snapshot>>,
    last_ping: u64,
    /// The life of the coordinator that was given its book last.
    booked: Option<u64>,
}

impl State {
    fn has_backlog(&self) -> bool {
        !self.orders.is_empty() || self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }
}

/// A look-up under way, for all shards that asked.
#[derive(Debug)]
struct Flight {
    shards: Vec<usize>,
    /// The key was edited since the store was asked.
    stale: bool,
}

impl Pump {
    /// `seen_keys` bounds how many keys are remembered for an outage of the store.
    pub(crate) fn new(end: SidecarEnd, seen_keys: usize) -> Self {
        let state = State {
            orders: Orders::default(),
            outboxes: (0..end.shards()).map(|_| Outbox::default()).collect(),
            flights: HashMap::new(),
            seen: SeenKeys::new(seen_keys),
            snapshot: None,
            last_ping: 0,
            booked: None,
        };
        let (beats, kept, looked, stirred) = (Notify::new(), Notify::new(), Notify::new(), Notify::new());
        let (lives, exhausted) = (watch::Sender::new(0), broadcast::Sender::new(EXHAUSTED));
        let shard_lives = watch::Sender::new(0);
        Self { end, state: Mutex::new(state), beats, kept, looked, stirred, lives, shard_lives, exhausted }
    }

    /// The shards' figures.
    pub(crate) fn gauges(&self) -> &Gauges {
        self.end.gauges()
    }

    /// What requests that start now run under.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().snapshot.clone()
    }

    /// Sends a snapshot's shares to the coordinator, and then the snapshot to every shard. The first one also says that
    /// keys may have changed: shards may have outlived the sidecar that told them before.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.lock();
        let is_first = state.snapshot.replace(Arc::clone(&snapshot)).is_none();
        self.order(&mut state, Order::Shares(Arc::clone(snapshot.shares())));
        self.send_all(&mut state, &Command::Snapshot(snapshot));
        if is_first {
            self.send_all(&mut state, &Command::AllKeysChanged);
        }
    }

    /// A key was created, edited, rotated or deleted, and this is what it is now: told of every secret that
    /// reaches it, or did until now. What a deleted one has in the queue goes on under its last shape.
    pub(crate) fn key_changed(&self, change: &KeyChange) {
        let mut state = self.lock();
        let row = &change.row;
        let tenant = state.snapshot.as_ref().and_then(|snapshot| Some(snapshot.tenant(row.tenant_id)?.ix));
        if let Some(tenant) = tenant.filter(|_| !row.deleted) {
            self.order(&mut state, Order::Key { tenant, key: row.id, shape: row.shape() });
        }
        for old in &change.old {
            self.secret_changed(&mut state, old.digest, change.row.record(Some(old.ends_at)));
        }
        self.secret_changed(&mut state, change.row.digest, change.row.record(None));
    }

    fn secret_changed(&self, state: &mut State, digest: KeyDigest, record: KeyRecord) {
        if let Some(flight) = state.flights.get_mut(&digest) {
            flight.stale = true;
        }
        state.seen.edited(digest, Arc::new(record));
        self.send_all(state, &Command::KeyChanged(digest));
    }

    /// Gives the owner of the limits its book: these are all there are.
    pub(crate) fn publish_limits(&self, book: Arc<LimitBook>) {
        let mut state = self.lock();
        state.booked = Some(state.orders.lives());
        self.order(&mut state, Order::Limits(book));
    }

    /// The life of the coordinator, if it was given its book: what it reports from now on is in the light of that.
    pub(crate) fn booked(&self) -> Option<u64> {
        let state = self.lock();
        state.booked.filter(|life| *life == state.orders.lives())
    }

    /// The limits of one scope were set, or its periods have moved on.
    pub(crate) fn limit_changed(&self, definition: Definition) {
        self.order(&mut self.lock(), Order::Limit(definition));
    }

    /// What a budget has used is not what the usage ledger says.
    pub(crate) fn correct(&self, correction: Correction) {
        self.order(&mut self.lock(), Order::Correct(correction));
    }

    /// Lives of the coordinator that have begun since the sidecar did. One that begins has no limits: it must be given
    /// its book.
    pub(crate) fn lives(&self) -> watch::Receiver<u64> {
        self.lives.subscribe()
    }

    /// Lives of shards that have begun since the sidecar did. What a shard that died had in its hands counts as used until
    /// the usage ledger says better.
    pub(crate) fn shard_lives(&self) -> watch::Receiver<u64> {
        self.shard_lives.subscribe()
    }

    /// Budgets that a request was refused for, the first one in each period, with the period's first moment.
    pub(crate) fn exhausted(&self) -> broadcast::Receiver<(Meter, UnixMs)> {
        self.exhausted.subscribe()
    }

    /// Asks every shard that runs for a sign of life, and waits until `within` has passed. Returns the shards
    /// that gave none. One that is missing is left out: it is started again when its time has come, and to restart
    /// the process for it would end what the others have in flight.
    pub(crate) async fn silent_shards(&self, within: Duration) -> Vec<usize> {
        let number = {
            let mut state = self.lock();
            state.last_ping =
                self.gauges().shards().map(|g| g.heartbeat.get()).fold(state.last_ping, u64::max) + 1;
            let number = state.last_ping;
            self.send_all(&mut state, &Command::Ping(number));
            number
        };
        let silent = || -> Vec<usize> {
            let beats = self.gauges().shards().enumerate();
            // In a drain a shard that has nothing to finish ends; only the others have to be alive.
            let ended = |shard: &ShardGauges| {
                shard.is_missing() || self.gauges().is_draining() && !shard.is_serving()
            };
            let silent = beats.filter(|(_, shard)| shard.heartbeat.get() < number && !ended(shard));
            silent.map(|(shard, _)| shard).collect()
        };
        let all_answered = async {
            loop {
                let beat = self.beats.notified();
                if silent().is_empty() {
                    return;
                }
                beat.await;
            }
        };
        // Who is silent is read below, whether the time passed or not.
        let _ = tokio::time::timeout(within, all_answered).await;
        silent()
    }

    /// Asks the coordinator how everybody stands. `None` when it does not say within that time.
    pub(crate) async fn look(&self, within: Duration) -> Option<Look> {
        let looked = self.looked((|| Order::Look, Duration::ZERO), |orders| &mut orders.live);
        timeout(within, looked).await.ok()
    }

    /// Asks the owner of the limits how every meter stands that is in use, a few times per second at most: who asks more
    /// often waits, and shares the next answer. `None` when there is none within that time.
    pub(crate) async fn look_at_limits(&self, within: Duration) -> Option<Arc<[Standing]>> {
        let looked = self.looked((|| Order::LookAtLimits, LIMITS_PAUSE), |orders| &mut orders.standings);
        timeout(within, looked).await.ok()
    }

    /// Waits for a report that is not older than this, ordered no sooner than so long after the one before.
    async fn looked<T: Clone>(
        &self,
        (order, pause): (fn() -> Order, Duration),
        looks: impl Fn(&mut Orders) -> &mut Looks<T>,
    ) -> T {
        let wish = looks(&mut self.lock().orders).wish();
        loop {
            let looked = self.looked.notified();
            let next = looks(&mut self.lock().orders).next(wish, pause);
            match next {
                Next::Have(report) => return report,
                Next::Order => {
                    self.order(&mut self.lock(), order());
                    looked.await;
                }
                Next::Report => looked.await,
                Next::Pause(left) => tokio::select! {
                    () = looked => {}
                    () = sleep(left) => {}
                },
            }
        }
    }

    /// Waits until a shard has said something, or has since this was last asked.
    pub(crate) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Serves the shards and the coordinator until the sidecar ends.
    ///
    /// # Errors
    /// The runtime cannot wait for the doorbell.
    pub(crate) async fn run(self: Arc<Self>, store: Store) -> io::Result<()> {
        let bell = AsyncBell::of(self.end.bell())?;
        let mut pause = RETRY.0;
        loop {
            self.end.bell().going_to_sleep();
            // From here on a heartbeat rings; one that came before is visible to whoever waits for it.
            self.beats.notify_waiters();
            if !self.end.has_event() {
                let has_backlog = self.lock().has_backlog();
                tokio::select! {
                    rung = bell.rung() => rung?,
                    () = self.kept.notified() => {}
                    () = sleep(pause), if has_backlog => {}
                }
            }
            self.end.bell().awake();
            self.take_events(&store);
            self.take_reports();
            pause = if self.flush() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
            tokio::task::yield_now().await;
        }
    }

    fn take_events(self: &Arc<Self>, store: &Store) {
        for shard in 0..self.end.shards() {
            for event in std::iter::from_fn(|| self.end.take(shard)).take(BATCH) {
                self.stirred.notify_one();
                match event {
                    Event::Started => self.greet(shard),
                    Event::KeyLookup(digest) => self.look_up(shard, digest, store),
                    // What the sidecar built, the sidecar frees.
                    Event::Retired(snapshot) => drop(snapshot),
                }
            }
        }
    }

    fn take_reports(&self) {
        for report in std::iter::from_fn(|| self.end.take_report()).take(BATCH) {
            if let Report::Exhausted(meter, since) = report {
                // Whoever listens; nobody has to.
                let _ = self.exhausted.send((meter, since));
                continue;
            }
            let mut state = self.lock();
            let shares = state.snapshot.as_ref().map(|snapshot| Arc::clone(snapshot.shares()));
            let is_out = state.orders.take_report(&self.end, report, shares);
            self.note_kept(is_out);
            self.lives.send_if_modified(|lives| std::mem::replace(lives, state.orders.lives()) != *lives);
            drop(state);
            self.looked.notify_waiters();
        }
    }

    fn greet(&self, shard: usize) {
        self.shard_lives.send_modify(|lives| *lives += 1);
        let mut state = self.lock();
        if let Some(snapshot) = state.snapshot.clone() {
            self.send(&mut state, shard, Command::Snapshot(snapshot));
        }
    }

    fn look_up(self: &Arc<Self>, shard: usize, digest: KeyDigest, store: &Store) {
        let mut state = self.lock();
        if let Some(flight) = state.flights.get_mut(&digest) {
            if !flight.shards.contains(&shard) {
                flight.shards.push(shard);
            }
            return;
        }
        state.flights.insert(digest, Flight { shards: vec![shard], stale: false });
        drop(state);
        let (this, store) = (Arc::clone(self), store.clone());
        tokio::spawn(async move { while !this.settle(digest, store.look_up(digest).await) {} });
    }

    /// Answers all shards that asked, or returns `false`: the key was edited meanwhile, ask the store again.
    fn settle(&self, digest: KeyDigest, found: Result<Option<KeyRecord>, Fault>) -> bool {
        let mut state = self.lock();
        if state.flights.get_mut(&digest).is_some_and(|flight| std::mem::take(&mut flight.stale)) {
            return false;
        }
        let answer = match found {
            Ok(Some(record)) => {
                let record = Arc::new(record);
                state.seen.put(digest, Arc::clone(&record));
                KeyAnswer::Found(record)
            }
            Ok(None) => {
                state.seen.remove(&digest);
                KeyAnswer::Unknown
            }
            Err(_) => state.seen.get(&digest).map_or(KeyAnswer::StoreDown, |seen| {
                KeyAnswer::Unconfirmed(Arc::clone(&seen.record), seen.at.elapsed())
            }),
        };
        let shards = state.flights.remove(&digest).map(|flight| flight.shards).unwrap_or_default();
        for shard in shards {
            self.send(&mut state, shard, Command::KeyAnswer(digest, answer.clone()));
        }
        true
    }

    fn order(&self, state: &mut State, order: Order) {
        self.note_kept(state.orders.give(&self.end, order));
    }

    fn note_kept(&self, is_out: bool) {
        if !is_out {
            self.kept.notify_one();
        }
    }

    fn send_all(&self, state: &mut State, command: &Command) {
        for shard in 0..self.end.shards() {
            self.send(state, shard, command.clone());
        }
    }

    /// Never overtakes what is kept for the shard.
    fn send(&self, state: &mut State, shard: usize, command: Command) {
        let Some(outbox) = state.outboxes.get_mut(shard) else { return };
        if !outbox.is_empty() {
            return outbox.keep(command);
        }
        if let Err(refused) = self.end.send(shard, command) {
            outbox.keep(refused);
            self.kept.notify_one();
        }
    }

    /// Sends what was kept. Returns whether nothing is left.
    fn flush(&self) -> bool {
        let mut state = self.lock();
        let mut all_sent = state.orders.flush(&self.end);
        for (shard, outbox) in state.outboxes.iter_mut().enumerate() {
            while let Some(command) = outbox.take() {
                if let Err(refused) = self.end.send(shard, command) {
                    outbox.put_back(refused);
                    all_sent = false;
                    break;
                }
            }
        }
        all_sent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
