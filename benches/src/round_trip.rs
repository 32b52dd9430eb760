//! From a ticket to its grant and back, between two threads over the real rings and doorbells.
//!
//! One thread is a shard, the other a coordinator; the pool has a single slot, so every request needs a ticket. What is
//! timed is the wait of a request whose slot is free: what coordination itself adds. It is time on the clock, so whatever
//! else the machine does is in it.

use std::{thread, time::Instant as Clock};

use obleth_link::{BufferBudget, CoordinatorEnd, Doorbell, Order, ShardEnd, SidecarEnd, links};
use obleth_policy::{
    admission::{Admission, Verdict, Wait},
    coordinator::{Coordinator, Outbox},
    cost::Cost,
    unit::Instant,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    admission::ask,
    decision::{LIMITS, shares},
};

/// Who waits with open eyes, and who sleeps until its bell rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleepers {
    pub(crate) shard: bool,
    pub(crate) coordinator: bool,
}

const WARM_UP: usize = 1_000;
const TRIPS: usize = 20_000;
/// Between two requests, so that whoever sleeps has gone to sleep.
const PAUSE_NS: u128 = 20_000;

/// Median and 99th percentile of the round trip, in nanoseconds.
pub(crate) fn measure(sleepers: Sleepers) -> std::io::Result<(u64, u64)> {
    let (sidecar, shards) = links(1, BufferBudget::new(0))?;
    let end = sidecar.coordinator();
    let coordinator = thread::spawn(move || coordinate(&end, sleepers.coordinator));
    let mut trips = Shard::new(&shards[0], sleepers.shard).trips();
    stop(&sidecar);
    coordinator.join().expect("the coordinator does not panic");
    trips.sort_unstable();
    Ok((trips[trips.len() / 2], trips[trips.len() * 99 / 100]))
}

fn stop(sidecar: &SidecarEnd) {
    while sidecar.order(Order::Stop).is_err() {}
}

/// The clock, as policy has it.
fn now() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Instant(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}

/// Sleeps until the bell rings, unless there is something to do by now.
fn sleep(bell: &Doorbell, has_word: impl Fn() -> bool) {
    bell.going_to_sleep();
    if !has_word() {
        // An interrupted wait looks again, like one that is over.
        let _ = poll(&mut [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)], None);
    }
    bell.awake();
}

fn coordinate(end: &CoordinatorEnd, sleeps: bool) {
    let (mut coordinator, mut out) = (Coordinator::new(1, LIMITS), Outbox::new());
    coordinator.configure(&shares(1, 1, |_| 100), &mut out);
    loop {
        if let Some(Order::Stop) = end.take_order() {
            return;
        }
        let mut has_heard = false;
        while let Some((life, up)) = end.take_up(0) {
            coordinator.take(now(), (0, life), up, &mut out);
            has_heard = true;
        }
        if has_heard {
            coordinator.decide(now(), &mut out);
        } else if sleeps {
            sleep(end.bell(), || end.has_word());
        } else {
            std::hint::spin_loop();
        }
        for (shard, down) in out.drain(..) {
            let Some(life) = coordinator.life(shard) else { continue };
            end.say(shard, life, down).expect("one request has few words");
            end.ring(shard);
        }
    }
}

struct Shard<'a> {
    end: &'a ShardEnd,
    sleeps: bool,
    admission: Admission,
}

impl<'a> Shard<'a> {
    fn new(end: &'a ShardEnd, sleeps: bool) -> Self {
        Self { end, sleeps, admission: Admission::new(end.new_life()) }
    }

    fn trips(&mut self) -> Vec<u64> {
        let mut trips = Vec::with_capacity(TRIPS);
        for trip in 0..WARM_UP + TRIPS {
            let pause = Clock::now();
            while pause.elapsed().as_nanos() < PAUSE_NS {
                std::hint::spin_loop();
            }
            let begin = Clock::now();
            let slot = self.request();
            if trip >= WARM_UP {
                trips.push(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            self.admission.release(now(), slot, Cost(100_000));
            self.speak();
        }
        trips
    }

    fn request(&mut self) -> obleth_policy::admission::Slot {
        match self.admission.ask(now(), &ask(0)) {
            Verdict::Granted(slot) => return slot,
            Verdict::Queued(_) => self.speak(),
        }
        loop {
            while let Some((life, down)) = self.end.take_down() {
                let over = self.admission.obey(now(), life, down);
                if let Some(Wait::Granted { slot, .. }) = over.map(|ticket| self.admission.collect(ticket)) {
                    return slot;
                }
            }
            if self.sleeps {
                sleep(self.end.bell(), || self.end.has_command());
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn speak(&mut self) {
        let life = self.admission.life();
        let all = self.admission.say(now(), |up| self.end.say(life, up));
        assert!(all, "one request has few words");
        self.end.ring_coordinator();
    }
}
