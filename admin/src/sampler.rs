//! Asks the coordinator every two seconds how everybody stands, while there is something to see.
//!
//! It sleeps without a timer while nothing happens. A shard that says something wakes it: under traffic every key is
//! looked up again when it has reached its age, so one does within seconds. Whoever looks at figures wakes it, too.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use obleth_link::{Gauges, Histogram};
use tokio::{sync::Notify, time::sleep};

use crate::{clock, history::History, pump::Pump, snapshot::Publisher};

/// Time between two samples.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// How long the coordinator has for an answer.
pub(crate) const WITHIN: Duration = Duration::from_secs(1);
/// Samples' times without anything to see before it sleeps, counted from a shard's word: longer together than keys are
/// remembered by default, so that traffic that goes on is not missed between two look-ups.
const LINGER: u32 = 7;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Sampler {
    pump: Arc<Pump>,
    publisher: Arc<Publisher>,
    history: Mutex<History>,
    asked: Notify,
}

/// What the shards' figures tell about traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    present: u64,
    done: u64,
}

impl Traffic {
    fn now(gauges: &Gauges) -> Self {
        let present = gauges.sum(|shard| &shard.in_flight) + gauges.sum(|shard| &shard.queued);
        let count = |durations: &Histogram<_>| durations.counts().sum::<u64>();
        Self { present, done: gauges.shards().map(|shard| count(&shard.duration)).sum() }
    }
}

impl Sampler {
    pub(crate) fn new(pump: Arc<Pump>, publisher: Arc<Publisher>) -> Self {
        let history = Mutex::new(History::new(Instant::now()));
        Self { pump, publisher, history, asked: Notify::new() }
    }

    /// Makes sure that what happens now is sampled.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// What was sampled so far.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples until the sidecar ends.
    pub(crate) async fn run(&self) {
        let mut seen = Traffic::default();
        loop {
            // Who looks does so after the traffic; a shard's word comes before it.
            let linger = tokio::select! {
                () = self.pump.stirred() => LINGER,
                () = self.asked.notified() => 1,
            };
            seen = self.follow(seen, linger).await;
        }
    }

    /// Samples until `linger` times in a row there was nothing to see.
    async fn follow(&self, mut seen: Traffic, linger: u32) -> Traffic {
        let mut quiet = 0;
        let mut is_settling = false;
        loop {
            let traffic = Traffic::now(self.pump.gauges());
            if traffic.present > 0 || traffic != seen || is_settling {
                quiet = 0;
                // What has ended is reported a moment later, so the last sample is one without anything in it.
                is_settling = self.sample().await;
            } else {
                quiet += 1;
            }
            seen = traffic;
            if quiet >= linger {
                return seen;
            }
            sleep(EVERY).await;
        }
    }

    /// Returns whether there was anything to see.
    async fn sample(&self) -> bool {
        let Some(look) = self.pump.look(WITHIN).await else { return false };
        let directory = self.publisher.directory();
        self.history().record(&look, &directory, (Instant::now(), clock::now()))
    }
}

#[cfg(test)]
mod tests {
    use obleth_link::{BufferBudget, CoordinatorEnd, Order, ShardEnd, links};
    use obleth_policy::snapshot::{Brownout, Timers};
    use tokio::time::{Instant as Moment, timeout};

    use super::*;
    use crate::{
        networks::Networks,
        resolve::{KnownNames, Names, ask_system},
        snapshot::Defaults,
    };

    fn sampler() -> (Sampler, ShardEnd, CoordinatorEnd) {
        let (end, shards) = links(1, BufferBudget::new(0)).unwrap();
        let coordinator = end.coordinator();
        let pump = Arc::new(Pump::new(end, 1));
        let names = Arc::new(Names::new(ask_system, Networks::default(), KnownNames::default()));
        let defaults = Defaults {
            upstream: None,
            timers: Timers::default(),
            model_max_in_flight: 1,
            brownout: Brownout::Never,
            ceiling: 1,
        };
        let publisher = Arc::new(Publisher::new(defaults, names, Arc::clone(&pump)));
        (Sampler::new(pump, publisher), shards[0].clone(), coordinator)
    }

    /// On a paused clock the runtime skips to the next timer as soon as nothing else can happen.
    #[tokio::test(start_paused = true)]
    async fn without_traffic_it_asks_nothing_and_stops_once_keys_would_have_been_looked_up_again() {
        let (sampler, _shard, coordinator) = sampler();
        let begun = Moment::now();
        sampler.follow(Traffic::default(), LINGER).await;
        assert!(begun.elapsed() > Duration::from_secs(10), "keys are remembered for ten seconds by default");
        let begun = Moment::now();
        sampler.follow(Traffic::default(), 1).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(coordinator.take_order().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_samples_while_anything_runs_or_waits_and_what_ended_between_two_looks() {
        type Happens = fn(&ShardEnd);
        let happens: [Happens; 3] = [
            |shard| shard.gauges().in_flight.add(1),
            |shard| shard.gauges().queued.add(1),
            |shard| shard.gauges().duration.record(1, 1),
        ];
        for (at, happens) in happens.into_iter().enumerate() {
            let (sampler, shard, coordinator) = sampler();
            happens(&shard);
            let goes_on =
                timeout(Duration::from_secs(3600), sampler.follow(Traffic::default(), 1)).await.is_err();
            assert_eq!(goes_on, at < 2);
            assert!(matches!(coordinator.take_order(), Some(Order::Look)));
        }
    }
}
