//! The only user of the sidecar's link end: events of the shards in, commands out.
//!
//! Every state change goes out synchronously, before the admin API answers; what a full ring refuses is kept
//! and merged in an [`Outbox`]. A look-up whose key is edited while it runs is made again, so an answer that
//! leaves after an edit is never older than it. Nothing here waits while it holds the lock.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use obleth_link::{Command, Event, Gauges, ShardGauges, SidecarEnd};
use obleth_policy::{
    key::{KeyAnswer, KeyDigest, KeyRecord},
    snapshot::Snapshot,
};
use tokio::{net::unix::pipe, sync::Notify, time::sleep};

use crate::{
    outbox::Outbox,
    seen::SeenKeys,
    store::{Store, fault::Fault, rows::KeyChange},
};

/// Events taken from one shard before others get their turn.
const BATCH: usize = 512;
/// First and longest pause between tries to fill a ring that was full. Edits must reach every core within
/// 100 ms.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pump {
    end: SidecarEnd,
    state: Mutex<State>,
    /// Rings whenever a shard may have answered a ping.
    beats: Notify,
    /// Rings when something had to be kept.
    kept: Notify,
}

#[derive(Debug)]
struct State {
    outboxes: Vec<Outbox>,
    flights: HashMap<KeyDigest, Flight>,
    seen: SeenKeys,
    snapshot: Option<Arc<Snapshot>>,
    last_ping: u64,
}

/// A look-up under way, for all shards that asked.
#[derive(Debug)]
struct Flight {
    shards: Vec<usize>,
    /// The key was edited since the store was asked.
    stale: bool,
}

/// The doorbell as something that the runtime can wait on. It reads an eventfd as it would read a pipe; unlike
/// `AsyncFd`, that needs no unsafe code.
struct AsyncBell(pipe::Receiver);

impl AsyncBell {
    fn of(end: &SidecarEnd) -> io::Result<Self> {
        let fd = end.bell().fd().try_clone_to_owned()?;
        Ok(Self(pipe::Receiver::from_file_unchecked(File::from(fd))?))
    }

    /// Returns when it rang. It may also return when it rang earlier.
    async fn rung(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut count = [0; 8];
        // Until it would block: only that makes the runtime wait for the next ring.
        while self.0.try_read(&mut count).is_ok() {}
        Ok(())
    }
}

impl Pump {
    /// `seen_keys` bounds how many keys are remembered for an outage of the store.
    pub(crate) fn new(end: SidecarEnd, seen_keys: usize) -> Self {
        let state = State {
            outboxes: (0..end.shards()).map(|_| Outbox::default()).collect(),
            flights: HashMap::new(),
            seen: SeenKeys::new(seen_keys),
            snapshot: None,
            last_ping: 0,
        };
        Self { end, state: Mutex::new(state), beats: Notify::new(), kept: Notify::new() }
    }

    /// The shards' figures.
    pub(crate) fn gauges(&self) -> &Gauges {
        self.end.gauges()
    }

    /// What requests that start now run under.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().snapshot.clone()
    }

    /// Sends a snapshot to every shard. The first one also says that keys may have changed: shards may have
    /// outlived the sidecar that told them before.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.lock();
        let is_first = state.snapshot.replace(Arc::clone(&snapshot)).is_none();
        self.send_all(&mut state, &Command::Snapshot(snapshot));
        if is_first {
            self.send_all(&mut state, &Command::AllKeysChanged);
        }
    }

    /// A key was created, edited, rotated or deleted, and this is what it is now: told of every secret that
    /// reaches it, or did until now.
    pub(crate) fn key_changed(&self, change: &KeyChange) {
        let mut state = self.lock();
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

    /// Serves the shards until the sidecar ends.
    ///
    /// # Errors
    /// The runtime cannot wait for the doorbell.
    pub(crate) async fn run(self: Arc<Self>, store: Store) -> io::Result<()> {
        let bell = AsyncBell::of(&self.end)?;
        let mut pause = RETRY.0;
        loop {
            self.end.bell().going_to_sleep();
            // From here on a heartbeat rings; one that came before is visible to whoever waits for it.
            self.beats.notify_waiters();
            if !self.end.has_event() {
                let has_backlog = self.lock().outboxes.iter().any(|outbox| !outbox.is_empty());
                tokio::select! {
                    rung = bell.rung() => rung?,
                    () = self.kept.notified() => {}
                    () = sleep(pause), if has_backlog => {}
                }
            }
            self.end.bell().awake();
            self.take_events(&store);
            pause = if self.flush() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
            tokio::task::yield_now().await;
        }
    }

    fn take_events(self: &Arc<Self>, store: &Store) {
        for shard in 0..self.end.shards() {
            for event in std::iter::from_fn(|| self.end.take(shard)).take(BATCH) {
                match event {
                    Event::Started => self.greet(shard),
                    Event::KeyLookup(digest) => self.look_up(shard, digest, store),
                    // What the sidecar built, the sidecar frees.
                    Event::Retired(snapshot) => drop(snapshot),
                }
            }
        }
    }

    fn greet(&self, shard: usize) {
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
        let mut all_sent = true;
        for (shard, outbox) in self.lock().outboxes.iter_mut().enumerate() {
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
mod tests {
    use obleth_link::{BufferBudget, COMMAND_RING, ShardEnd, links};
    use obleth_policy::{
        id::{KeyId, TenantId},
        unit::UnixMs,
    };
    use uuid::Uuid;

    use super::*;
    use crate::store::rows::{KeyRow, OldSecret};

    const DIGEST: KeyDigest = KeyDigest([7; 32]);

    fn pump(shards: usize) -> (Pump, Vec<ShardEnd>) {
        let (end, shards) = links(shards, BufferBudget::new(0)).unwrap();
        (Pump::new(end, 10), shards)
    }

    fn change(disabled: bool) -> KeyChange {
        let mut row = KeyRow::draft(TenantId(Uuid::nil()), "k".into(), "sk_0000", DIGEST);
        row.disabled = disabled;
        KeyChange { row, old: Vec::new() }
    }

    fn record(disabled: bool) -> KeyRecord {
        let unlimited = KeyRecord::unlimited(KeyId(Uuid::nil()), TenantId(Uuid::nil()));
        KeyRecord { disabled, ..unlimited }
    }

    fn under_way(pump: &Pump, shards: &[usize]) {
        pump.lock().flights.insert(DIGEST, Flight { shards: shards.to_vec(), stale: false });
    }

    #[test]
    fn a_key_that_is_edited_while_it_is_looked_up_is_looked_up_again() {
        let (pump, shards) = pump(1);
        under_way(&pump, &[0]);
        pump.key_changed(&change(true));
        assert!(!pump.settle(DIGEST, Ok(Some(record(false)))), "the old row must not go out");
        assert!(pump.settle(DIGEST, Ok(Some(record(true)))));
        assert!(matches!(shards[0].take(), Some(Command::KeyChanged(DIGEST))));
        let answer = shards[0].take();
        assert!(matches!(answer, Some(Command::KeyAnswer(DIGEST, KeyAnswer::Found(key))) if key.disabled));
        assert!(shards[0].take().is_none());
    }

    #[test]
    fn every_shard_that_asked_gets_the_one_answer() {
        let (pump, shards) = pump(3);
        under_way(&pump, &[0, 2]);
        assert!(pump.settle(DIGEST, Ok(None)));
        for at in [0, 2] {
            assert!(matches!(shards[at].take(), Some(Command::KeyAnswer(DIGEST, KeyAnswer::Unknown))));
        }
        assert!(shards[1].take().is_none());
    }

    #[test]
    fn in_an_outage_a_key_ever_seen_is_answered_as_it_was_last_edited() {
        let (pump, shards) = pump(1);
        let answer = |found| {
            under_way(&pump, &[0]);
            assert!(pump.settle(DIGEST, found));
            std::iter::from_fn(|| shards[0].take()).last()
        };
        assert!(matches!(answer(Err(Fault::Io)), Some(Command::KeyAnswer(_, KeyAnswer::StoreDown))));
        answer(Ok(Some(record(false))));
        pump.key_changed(&change(true));
        let seen = answer(Err(Fault::Io));
        assert!(matches!(seen, Some(Command::KeyAnswer(_, KeyAnswer::Unconfirmed(key, _))) if key.disabled));
        answer(Ok(None));
        assert!(matches!(answer(Err(Fault::Io)), Some(Command::KeyAnswer(_, KeyAnswer::StoreDown))));
    }

    #[test]
    fn a_change_reaches_every_secret_of_the_key_and_what_it_ended_stays_ended_in_an_outage() {
        let (pump, shards) = pump(1);
        let old = |n, ends_at| OldSecret { digest: KeyDigest([n; 32]), ends_at: UnixMs(ends_at) };
        let settle = |digest, found| {
            pump.lock().flights.insert(digest, Flight { shards: vec![0], stale: false });
            assert!(pump.settle(digest, found));
            std::iter::from_fn(|| shards[0].take()).last()
        };
        for n in 1..=3 {
            settle(KeyDigest([n; 32]), Ok(Some(record(false))));
        }
        let change = KeyChange { old: vec![old(1, 5000), old(2, 0)], ..change(true) };
        pump.key_changed(&change);
        let told: Vec<u8> = std::iter::from_fn(|| shards[0].take())
            .map(|command| match command {
                Command::KeyChanged(digest) => digest.0[0],
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [1, 2, 7]);
        for (n, ends_at) in [(1, Some(5000)), (2, Some(0)), (3, None)] {
            let Some(Command::KeyAnswer(_, KeyAnswer::Unconfirmed(key, _))) =
                settle(KeyDigest([n; 32]), Err(Fault::Io))
            else {
                panic!("it was seen");
            };
            assert_eq!((key.secret_ends_at, key.disabled), (ends_at.map(UnixMs), n != 3), "{n}");
        }
    }

    #[test]
    fn what_a_full_ring_refuses_is_merged_and_sent_later() {
        let (pump, shards) = pump(1);
        for _ in 0..COMMAND_RING + 100 {
            pump.key_changed(&change(false));
        }
        for generation in 1..=3 {
            pump.publish(Arc::new(Snapshot::new(generation, Vec::new(), Vec::new())));
        }
        assert!(!pump.flush(), "the ring is still full");
        assert_eq!(std::iter::from_fn(|| shards[0].take()).count(), COMMAND_RING);
        assert!(pump.flush());
        assert!(matches!(shards[0].take(), Some(Command::Snapshot(s)) if s.generation == 3));
        assert!(matches!(shards[0].take(), Some(Command::AllKeysChanged)));
        assert!(shards[0].take().is_none());
        pump.key_changed(&change(false));
        assert!(matches!(shards[0].take(), Some(Command::KeyChanged(DIGEST))));
    }
}
