//! Deadlines of one shard: many alarms, one sleeping task.
//!
//! A request moves its deadline several times (head, first byte, idle, keep-alive), nearly always before it
//! passes. So setting an alarm is a store into its own cell; the shared heap is touched only when the new
//! deadline is earlier than the entry that is already queued for it. An entry that comes up finds out
//! whether its alarm has moved on. The task sleeps until the earliest entry; with none, it sleeps for good.
//!
//! An alarm never cancels I/O. It wakes the task that owns it, and that task decides.

use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    collections::BinaryHeap,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use obleth_policy::unit::{Instant, UnixMs};

/// The heap is swept of dead entries once it holds this many more than twice the living ones.
const SWEEP_SLACK: usize = 256;
/// A deadline that is not set.
const NEVER: u64 = u64::MAX;

/// The wall clock is read again once the last reading is this old; in between it goes with the monotonic one.
const WALL_EVERY: Duration = Duration::from_millis(100);

/// The clocks of one shard. Reading one costs as much as parsing a header line, and a request asks for the time
/// a dozen times: so a task that is polled reads it once, and asks for the reading from then on.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: std::time::Instant,
    recent: Cell<Instant>,
    /// A reading of the wall clock, in nanoseconds since 1970, and when it was taken.
    wall: Cell<(Instant, u64)>,
}

impl Clock {
    /// Counts from `epoch`, as the process's other threads do.
    pub(crate) fn new(epoch: std::time::Instant) -> Self {
        Self { epoch, recent: Cell::default(), wall: Cell::new((Instant::default(), read_wall())) }
    }

    /// Monotonic time, read now.
    pub(crate) fn now(&self) -> Instant {
        let now = Instant(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.recent.set(now);
        now
    }

    /// Monotonic time at its last reading: good for whoever knows that this was in the same poll.
    pub(crate) fn recent(&self) -> Instant {
        self.recent.get()
    }

    /// Wall-clock time at the last reading of the monotonic one.
    pub(crate) fn recent_unix_ms(&self) -> UnixMs {
        let recent = self.recent.get();
        if recent.since(self.wall.get().0) >= WALL_EVERY {
            self.wall.set((self.now(), read_wall()));
        }
        let (taken, wall) = self.wall.get();
        let nanos = wall.saturating_add(recent.0.saturating_sub(taken.0));
        UnixMs(i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// Good until the year 2554.
fn read_wall() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// All alarms of a shard. Owned by the shard, used on its thread only.
#[derive(Debug)]
pub(crate) struct Timers {
    clock: Clock,
    heap: RefCell<BinaryHeap<Entry>>,
    living: Cell<usize>,
    sleeper: RefCell<Option<Waker>>,
    sleeps_until: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    cell: Rc<AlarmCell>,
}

#[derive(Debug)]
struct AlarmCell {
    deadline: Cell<u64>,
    queued: Cell<u64>,
    dead: Cell<bool>,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Timers {
    pub(crate) fn new(epoch: std::time::Instant) -> Rc<Self> {
        Rc::new(Self {
            clock: Clock::new(epoch),
            heap: RefCell::default(),
            living: Cell::new(0),
            sleeper: RefCell::default(),
            sleeps_until: Cell::new(NEVER),
        })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// An alarm that is not set.
    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        self.living.set(self.living.get().saturating_add(1));
        let cell = AlarmCell {
            deadline: Cell::new(NEVER),
            queued: Cell::new(NEVER),
            dead: Cell::new(false),
            fired: Cell::new(false),
            waker: RefCell::default(),
        };
        Alarm { timers: Rc::clone(self), cell: Rc::new(cell) }
    }

    /// Fires what is due; says when to come back.
    fn fire_due(&self) -> Option<u64> {
        let now = self.clock.now().0;
        let mut heap = self.heap.borrow_mut();
        loop {
            match heap.peek() {
                None => return None,
                Some(entry) if entry.at > now && !entry.cell.dead.get() => return Some(entry.at),
                Some(_) => {}
            }
            let Entry { at, cell } = heap.pop()?;
            if cell.dead.get() || cell.queued.get() != at {
                continue;
            }
            match cell.deadline.get() {
                NEVER => cell.queued.set(NEVER),
                deadline if deadline > now => {
                    cell.queued.set(deadline);
                    heap.push(Entry { at: deadline, cell });
                }
                _ => {
                    cell.queued.set(NEVER);
                    cell.deadline.set(NEVER);
                    cell.fired.set(true);
                    if let Some(waker) = cell.waker.borrow().as_ref() {
                        waker.wake_by_ref();
                    }
                }
            }
        }
    }

    fn queue(&self, at: u64, cell: &Rc<AlarmCell>) {
        cell.queued.set(at);
        let mut heap = self.heap.borrow_mut();
        if heap.len() > self.living.get().saturating_mul(2).saturating_add(SWEEP_SLACK) {
            heap.retain(Entry::is_wanted);
        }
        heap.push(Entry { at, cell: Rc::clone(cell) });
        if at < self.sleeps_until.get()
            && let Some(waker) = self.sleeper.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Lets go of what was queued for alarms that are no more, and of the room for it.
    pub(crate) fn tidy(&self) {
        let mut heap = self.heap.borrow_mut();
        heap.retain(Entry::is_wanted);
        heap.shrink_to_fit();
    }

    /// The task that keeps the alarms. Never returns.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            let next = self.fire_due();
            self.sleeps_until.set(next.unwrap_or(NEVER));
            let wait = next.map(|at| Instant(at).since(self.clock.now()));
            // One more than asked for, because the runtime's timer rounds down to milliseconds.
            let wait = wait.map(|d| d.saturating_add(Duration::from_millis(1)));
            let mut nap = pin!(async {
                match wait {
                    Some(wait) => monoio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            });
            let mut first = true;
            poll_fn(|cx| {
                *self.sleeper.borrow_mut() = Some(cx.waker().clone());
                let woken = !std::mem::take(&mut first);
                if nap.as_mut().poll(cx).is_ready() || woken { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

/// One deadline of one task.
#[derive(Debug)]
pub(crate) struct Alarm {
    timers: Rc<Timers>,
    cell: Rc<AlarmCell>,
}

impl Alarm {
    /// Moves the deadline; whatever fired before is forgotten.
    pub(crate) fn set(&self, at: Instant) {
        self.cell.fired.set(false);
        self.cell.deadline.set(at.0);
        if at.0 < self.cell.queued.get() {
            self.timers.queue(at.0, &self.cell);
        }
    }

    /// Sets the deadline `ahead` of now, or takes it away where there is no limit.
    pub(crate) fn set_in(&self, ahead: Option<Duration>) {
        match ahead {
            Some(ahead) => self.set(self.timers.clock.now().plus(ahead)),
            None => self.clear(),
        }
    }

    /// Takes the deadline away.
    pub(crate) fn clear(&self) {
        self.cell.fired.set(false);
        self.cell.deadline.set(NEVER);
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
    pub(crate) fn poll_fired(&self, cx: &mut Context<'_>) -> bool {
        if self.cell.fired.get() {
            return true;
        }
        let mut waker = self.cell.waker.borrow_mut();
        match waker.as_mut() {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        false
    }

    /// Wakes the task that polls this alarm, without firing it.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.cell.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Waits for the deadline. Safe to drop.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| if self.poll_fired(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cell.dead.set(true);
        *self.cell.waker.borrow_mut() = None;
        self.timers.living.set(self.timers.living.get().saturating_sub(1));
    }
}

impl Entry {
    /// Whether its alarm is still there, and is not queued for another time.
    fn is_wanted(&self) -> bool {
        !self.cell.dead.get() && self.cell.queued.get() == self.at
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest: a binary heap gives out the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(timers: &Timers) -> Instant {
        timers.clock().now()
    }

    #[test]
    fn moving_a_deadline_out_costs_no_entry() {
        let timers = Timers::new(std::time::Instant::now());
        let alarm = timers.alarm();
        for secs in 10..1000 {
            alarm.set(now(&timers).plus(Duration::from_secs(secs)));
        }
        assert_eq!(timers.heap.borrow().len(), 1);
    }

    #[test]
    fn an_alarm_fires_at_its_last_deadline_and_not_at_an_earlier_one() {
        let timers = Timers::new(std::time::Instant::now());
        let alarm = timers.alarm();
        alarm.set(Instant(0));
        alarm.set(now(&timers).plus(Duration::from_secs(3600)));
        assert!(timers.fire_due().is_some());
        assert!(!alarm.cell.fired.get());
        alarm.set(Instant(0));
        assert_eq!(timers.fire_due().is_some(), !timers.heap.borrow().is_empty());
        assert!(alarm.cell.fired.get());
    }

    #[test]
    fn dropped_alarms_do_not_pile_up() {
        let timers = Timers::new(std::time::Instant::now());
        for _ in 0..100_000 {
            timers.alarm().set(now(&timers).plus(Duration::from_secs(300)));
        }
        assert!(timers.heap.borrow().len() <= SWEEP_SLACK + 1);
    }

    #[test]
    fn tidying_keeps_every_alarm_that_is_set_and_nothing_else() {
        let timers = Timers::new(std::time::Instant::now());
        let alarm = timers.alarm();
        alarm.set(Instant(0));
        for _ in 0..100 {
            timers.alarm().set(now(&timers).plus(Duration::from_secs(300)));
        }
        timers.tidy();
        assert_eq!((timers.heap.borrow().len(), timers.heap.borrow().capacity()), (1, 1));
        assert_eq!(timers.fire_due(), None);
        assert!(alarm.cell.fired.get());
    }

    #[test]
    fn a_cleared_alarm_stays_silent() {
        let timers = Timers::new(std::time::Instant::now());
        let alarm = timers.alarm();
        alarm.set(Instant(0));
        alarm.clear();
        assert_eq!(timers.fire_due(), None);
        assert!(!alarm.cell.fired.get());
    }
}
