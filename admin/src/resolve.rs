//! Names of backends to addresses, off the shards.
//!
//! A name is resolved when it is written, when the sidecar starts, and every 30 s while it is in use; without
//! names there is no timer. A refresh that fails keeps the last good addresses, and so does a new sidecar.
//! Addresses that backends may not have are dropped from every answer, so a name cannot smuggle one in; one
//! that has no others has none. A write holds its name until it has ended, so that what is published
//! meanwhile does not drop it.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    address::{AddressFault, Host, Target},
    networks::Networks,
};

/// Age at which a name that resolved is asked again. Longer, and a moved backend stays lost for longer.
const REFRESH: Duration = Duration::from_secs(30);
/// First pause after a name that never resolved; doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait for one answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a write waits for the name in it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// What asks the system; an argument for the tests' sake.
pub(crate) type Ask = fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The system's resolver, on a thread of the runtime's blocking pool.
pub(crate) fn ask_system(
    host: String,
    port: u16,
) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

/// Last good addresses of the names in use. They outlive the sidecar, as the shards do: one that is started again
/// publishes what its predecessor knew, also when nothing resolves then. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KnownNames(Arc<Mutex<HashMap<Target, Arc<[SocketAddr]>>>>);

impl KnownNames {
    fn get(&self, target: &Target) -> Arc<[SocketAddr]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned().unwrap_or_default()
    }

    /// Exactly what is in use, so that nothing gathers over time.
    fn replace(&self, entries: &HashMap<Target, Entry>) {
        let in_use = entries.iter().filter(|(_, entry)| entry.wanted);
        let known = in_use.map(|(target, entry)| (target.clone(), Arc::clone(&entry.addresses))).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// All names in use and what is known of them.
pub(crate) struct Names {
    ask: Ask,
    networks: Networks,
    known: KnownNames,
    entries: Mutex<HashMap<Target, Entry>>,
    woken: Notify,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("entries", &*self.lock()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    addresses: Arc<[SocketAddr]>,
    /// Tries since the last good one.
    failures: u32,
    /// What is known to be the matter, so that it is said once.
    failure: Option<Failure>,
    due: Instant,
    /// What is published uses it.
    wanted: bool,
    /// Writes under way that use it.
    holds: usize,
    /// A write learned the addresses, and no publication had them yet.
    untold: bool,
}

/// Keeps a name known while a write that uses it is under way.
#[derive(Debug)]
pub(crate) struct Hold {
    names: Arc<Names>,
    target: Target,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.names.release(&self.target);
    }
}

/// Why a name has no new addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// No answer.
    Unanswered,
    /// Only addresses that a backend may not have.
    Refused(AddressFault),
}

/// One answer, judged.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good(Vec<SocketAddr>),
    /// It resolves, but only to addresses that a backend may not have.
    Refused(AddressFault),
    /// No answer.
    None,
}

impl Entry {
    /// Asked at once; until it is answered, it has the addresses that it had before.
    fn new(addresses: Arc<[SocketAddr]>, now: Instant) -> Self {
        Self { addresses, failures: 0, failure: None, due: now, wanted: false, holds: 0, untold: false }
    }

    /// Takes an answer in. Returns whether the addresses are other ones now.
    fn learn(&mut self, answer: Answer, now: Instant) -> bool {
        let Answer::Good(addresses) = answer else {
            let is_lost = matches!(answer, Answer::Refused(_)) && !self.addresses.is_empty();
            if is_lost {
                self.addresses = Arc::new([]);
            }
            let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(5)).min(REFRESH);
            self.failures = self.failures.saturating_add(1);
            self.due = now + if self.addresses.is_empty() { pause } else { REFRESH };
            return is_lost;
        };
        self.failures = 0;
        self.due = now + REFRESH;
        let is_same = |known: &[SocketAddr]| {
            // Resolvers rotate the order; that alone is no change.
            known.len() == addresses.len() && addresses.iter().all(|address| known.contains(address))
        };
        if is_same(&self.addresses) {
            return false;
        }
        self.addresses = addresses.into();
        true
    }
}

impl Names {
    /// `known` is what an earlier life of the sidecar learned, and takes in what this one learns.
    pub(crate) fn new(ask: Ask, networks: Networks, known: KnownNames) -> Self {
        Self { ask, networks, known, entries: Mutex::default(), woken: Notify::new() }
    }

    /// Where a backend is: what its name resolved to last, which is nothing if it never did.
    ///
    /// # Errors
    /// A literal that a backend may not have.
    pub(crate) fn locate(&self, target: &Target) -> Result<Arc<[SocketAddr]>, AddressFault> {
        match target.host {
            Host::Ip(ip) => self.networks.judge(ip).map(|()| Arc::from([SocketAddr::new(ip, target.port)])),
            Host::Name(_) => Ok(self.addresses(target)),
        }
    }

    fn addresses(&self, target: &Target) -> Arc<[SocketAddr]> {
        self.lock().get(target).map(|entry| Arc::clone(&entry.addresses)).unwrap_or_default()
    }

    /// From now on exactly these names are in use, and what is known of them is about to be published.
    pub(crate) fn want(&self, targets: HashSet<Target>) {
        let mut entries = self.lock();
        entries.retain(|target, entry| {
            entry.wanted = targets.contains(target);
            entry.wanted || entry.holds > 0
        });
        let now = Instant::now();
        for target in targets {
            let known = || self.known.get(&target);
            let entry = entries.entry(target.clone()).or_insert_with(|| Entry::new(known(), now));
            (entry.wanted, entry.untold) = (true, false);
        }
        self.known.replace(&entries);
        drop(entries);
        self.woken.notify_one();
    }

    /// Judges an address that is about to be written, and resolves the name in it. One that does not resolve is fine: it is
    /// tried again once it is in use. Addresses that are known already stay: a refresh changes and tells them.
    ///
    /// Keep what it returns until the write has ended; `None` for an address that needs no resolving.
    ///
    /// # Errors
    /// It is, or resolves only to, what a backend may not have.
    pub(crate) async fn check(self: &Arc<Self>, target: &Target) -> Result<Option<Hold>, AddressFault> {
        if let Host::Ip(ip) = target.host {
            return self.networks.judge(ip).map(|()| None);
        }
        let answer = timeout(WRITE_TIMEOUT, self.look_up(target)).await.unwrap_or(Answer::None);
        if let Answer::Refused(fault) = answer {
            return Err(fault);
        }
        let now = Instant::now();
        let mut entries = self.lock();
        let entry = entries.entry(target.clone()).or_insert_with(|| Entry::new(self.known.get(target), now));
        entry.holds += 1;
        if entry.addresses.is_empty() && entry.learn(answer, now) {
            entry.untold = entry.wanted;
        }
        Ok(Some(Hold { names: Arc::clone(self), target: target.clone() }))
    }

    /// Ends one hold. What was learned for others as well and is not published by now is told by a refresh.
    fn release(&self, target: &Target) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(target) else { return };
        entry.holds = entry.holds.saturating_sub(1);
        if !entry.wanted && entry.holds == 0 {
            entries.remove(target);
        } else if entry.untold {
            entry.due = Instant::now();
            self.woken.notify_one();
        }
    }

    /// Resolves what is due and calls `changed` when an address is another one, for ever.
    pub(crate) async fn run(self: Arc<Self>, changed: impl Fn()) {
        loop {
            self.refresh(&changed).await;
            match self.next_due() {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.woken.notified() => {}
                },
                None => self.woken.notified().await,
            }
        }
    }

    /// Resolves what is due, all at the same time.
    pub(crate) async fn refresh(self: &Arc<Self>, changed: &impl Fn()) {
        let now = Instant::now();
        let due: Vec<Target> = self
            .lock()
            .iter()
            .filter(|(_, entry)| entry.due <= now)
            .map(|(target, _)| target.clone())
            .collect();
        let mut lookups = JoinSet::new();
        for target in due {
            let this = Arc::clone(self);
            lookups.spawn(async move { this.refresh_one(&target).await });
        }
        while let Some(done) = lookups.join_next().await {
            if done.unwrap_or(false) {
                changed();
            }
        }
    }

    async fn refresh_one(&self, target: &Target) -> bool {
        let answer = self.look_up(target).await;
        let failure = match answer {
            Answer::Good(_) => None,
            Answer::Refused(fault) => Some(Failure::Refused(fault)),
            Answer::None => Some(Failure::Unanswered),
        };
        let mut entries = self.lock();
        // The name may have gone out of use meanwhile.
        let Some(entry) = entries.get_mut(target) else { return false };
        let before = std::mem::replace(&mut entry.failure, failure);
        let learned = entry.learn(answer, Instant::now());
        let changed = std::mem::take(&mut entry.untold) || learned;
        if changed {
            self.known.replace(&entries);
        }
        drop(entries);
        match (before, failure) {
            (before, now) if before == now => {}
            (_, Some(Failure::Refused(fault))) => tracing::error!(target: "obleth_admin", ?target,
                "a backend's name resolves to what {fault}; the backend is not used"),
            (_, Some(Failure::Unanswered)) => {
                tracing::warn!(target: "obleth_admin", ?target, "a backend's name does not resolve")
            }
            (_, None) => tracing::info!(target: "obleth_admin", ?target, "a backend's name resolves again"),
        }
        changed
    }

    async fn look_up(&self, target: &Target) -> Answer {
        let Host::Name(name) = &target.host else { return Answer::None };
        let asked = timeout(LOOKUP_TIMEOUT, (self.ask)(name.clone(), target.port)).await;
        let Ok(Ok(found)) = asked else { return Answer::None };
        let mut seen = HashSet::new();
        let mut refused = None;
        let mut is_usable = |at: &SocketAddr| {
            self.networks.judge(at.ip()).inspect_err(|fault| refused = Some(*fault)).is_ok()
                && seen.insert(*at)
        };
        let usable: Vec<SocketAddr> = found.into_iter().filter(|at| is_usable(at)).collect();
        match refused {
            _ if !usable.is_empty() => Answer::Good(usable),
            Some(fault) => Answer::Refused(fault),
            None => Answer::None,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.lock().values().map(|entry| entry.due).min()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn target(name: &str) -> Target {
        Target { host: Host::Name(name.into()), port: 80 }
    }

    /// A resolver whose answers are in the name.
    fn ask(host: String, port: u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        Box::pin(async move {
            let ip = match host.as_str() {
                "good" => "10.0.0.1",
                "metadata" => "169.254.169.254",
                "rebound" => "::ffff:169.254.169.254",
                "public" => "8.8.8.8",
                _ => return Err(io::Error::other("no such name")),
            };
            Ok(vec![SocketAddr::new(ip.parse().unwrap(), port)])
        })
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_failed_refresh_keeps_the_last_good_addresses() {
        let now = Instant::now();
        let mut entry = Entry::new(Arc::new([]), now);
        assert!(entry.learn(Answer::Good(vec![at("10.0.0.1:80"), at("10.0.0.2:80")]), now));
        assert!(!entry.learn(Answer::None, now));
        assert_eq!((entry.addresses.len(), entry.due), (2, now + REFRESH));
        let rotated = vec![at("10.0.0.2:80"), at("10.0.0.1:80")];
        assert!(!entry.learn(Answer::Good(rotated), now), "a new order is no change");
        assert!(entry.learn(Answer::Good(vec![at("10.0.0.3:80")]), now));
    }

    #[test]
    fn a_name_that_never_resolved_is_tried_again_ever_less_often() {
        let now = Instant::now();
        let mut entry = Entry::new(Arc::new([]), now);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                entry.learn(Answer::None, now);
                (entry.due - now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_name_that_hides_a_metadata_address_is_refused_and_one_that_is_unknown_is_not() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        assert_eq!(block_on(names.check(&target("metadata"))).unwrap_err(), AddressFault::Forbidden);
        assert!(block_on(names.check(&target("unknown"))).is_ok());
        let _hold = block_on(names.check(&target("good"))).unwrap();
        assert_eq!(*names.addresses(&target("good")), [at("10.0.0.1:80")]);
        assert!(names.addresses(&target("metadata")).is_empty());
    }

    #[test]
    fn a_name_that_comes_to_hide_a_metadata_address_loses_its_addresses() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        let told = std::cell::Cell::new(0);
        names.want(HashSet::from([target("rebound")]));
        names.lock().get_mut(&target("rebound")).unwrap().addresses = Arc::new([at("10.0.0.9:80")]);
        block_on(names.refresh(&|| told.set(told.get() + 1)));
        assert_eq!((told.get(), names.addresses(&target("rebound")).len()), (1, 0));
    }

    #[test]
    fn a_new_sidecar_has_the_addresses_of_the_one_before_though_nothing_resolves_any_more() {
        let known = KnownNames::default();
        let first = Arc::new(Names::new(ask, Networks::default(), known.clone()));
        first.want(HashSet::from([target("good"), target("public")]));
        block_on(first.refresh(&|| {}));
        first.want(HashSet::from([target("good")]));
        drop(first);
        let silence: Ask = |_, _| Box::pin(std::future::pending());
        let second = Arc::new(Names::new(silence, Networks::default(), known));
        second.want(HashSet::from([target("good"), target("public")]));
        let unchanged = || panic!("nothing was learned");
        let asked = block_on(async { timeout(Duration::ZERO, second.refresh(&unchanged)).await });
        assert!(asked.is_err(), "it is asked at once all the same");
        assert_eq!(*second.addresses(&target("good")), [at("10.0.0.1:80")]);
        assert!(second.addresses(&target("public")).is_empty(), "it was out of use");
    }

    #[test]
    fn what_the_operator_refuses_is_refused_as_a_literal_and_as_what_a_name_resolves_to() {
        let names = Arc::new(Names::new(ask, Networks { block_private: true }, KnownNames::default()));
        let literal = Target { host: Host::Ip("10.0.0.1".parse().unwrap()), port: 80 };
        for private in [&literal, &target("good")] {
            assert_eq!(block_on(names.check(private)).unwrap_err(), AddressFault::Private);
        }
        assert_eq!(names.locate(&literal), Err(AddressFault::Private));
        let _hold = block_on(names.check(&target("public"))).unwrap();
        assert_eq!(*names.locate(&target("public")).unwrap(), [at("8.8.8.8:80")]);
    }

    #[test]
    fn only_names_in_use_are_kept_and_a_change_is_told_once() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        let told = std::cell::Cell::new(0);
        names.want(HashSet::from([target("good"), target("unknown")]));
        block_on(names.refresh(&|| told.set(told.get() + 1)));
        assert_eq!((told.get(), names.addresses(&target("good")).len()), (1, 1));
        names.want(HashSet::new());
        assert!(names.addresses(&target("good")).is_empty());
        assert_eq!(names.next_due(), None);
    }

    #[test]
    fn a_name_that_is_being_written_outlives_publications_without_it_and_no_longer() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        let known = || names.addresses(&target("good")).len();
        let first = block_on(names.check(&target("good"))).unwrap();
        let second = block_on(names.check(&target("good"))).unwrap();
        names.want(HashSet::new());
        assert_eq!(known(), 1, "another write was published meanwhile");
        drop(first);
        names.want(HashSet::new());
        assert_eq!(known(), 1, "the other write is still under way");
        drop(second);
        assert_eq!((known(), names.next_due()), (0, None), "both came to nothing");
        let third = block_on(names.check(&target("good"))).unwrap();
        names.want(HashSet::from([target("good")]));
        drop(third);
        assert_eq!(known(), 1, "published");
    }

    #[test]
    fn what_a_failed_write_learned_for_others_is_told_once() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        let told = std::cell::Cell::new(0);
        names.want(HashSet::from([target("good")]));
        drop(block_on(names.check(&target("good"))).unwrap());
        for _ in 0..2 {
            block_on(names.refresh(&|| told.set(told.get() + 1)));
        }
        assert_eq!((told.get(), names.addresses(&target("good")).len()), (1, 1));
    }

    #[test]
    fn a_write_leaves_addresses_that_others_use_to_the_refresh() {
        let names = Arc::new(Names::new(ask, Networks::default(), KnownNames::default()));
        names.want(HashSet::from([target("good")]));
        let old: Arc<[SocketAddr]> = Arc::new([at("10.0.0.9:80")]);
        names.lock().get_mut(&target("good")).unwrap().addresses = Arc::clone(&old);
        drop(block_on(names.check(&target("good"))).unwrap());
        assert_eq!(names.addresses(&target("good")), old);
        let told = std::cell::Cell::new(0);
        block_on(names.refresh(&|| told.set(told.get() + 1)));
        assert_eq!((told.get(), &*names.addresses(&target("good"))), (1, &[at("10.0.0.1:80")][..]));
    }
}
