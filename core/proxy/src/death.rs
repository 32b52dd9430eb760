//! The death of a shard: a task that it cannot do without has panicked, or its runtime has.
//!
//! It exists because a ring and the tasks that wait in it hold each other: without help a dead shard would keep its
//! sockets, and backends would generate for nobody. So the runtime is used once more: requests end as in a drain that
//! has run out of time, everything else is dropped, and the thread's memory and descriptors go with the runtime. It
//! must never take long: clients wait in the listener's queue for the successor.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use crate::{downstream::Downstream, listener::survives, shard::Shard};

/// How long requests may take to say that they end, and then again to end without saying it.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Pace at which it is looked whether somebody still holds the shard.
const LOOK: Duration = Duration::from_millis(2);

/// Where a shard leaves itself when it begins, so that there is something to bury.
pub(crate) type Remains = Rc<RefCell<Option<Rc<Shard>>>>;

/// Ends tasks that otherwise never do. Their futures are dropped, so they must wait for nothing but readiness.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    told: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Ending {
    fn tell(&self) {
        self.told.set(true);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Runs a task until it ends or is ended.
    async fn or(&self, task: impl Future<Output = ()>) {
        let mut task = pin!(task);
        let mut known = false;
        poll_fn(|cx| {
            if self.told.get() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut known, true) {
                self.waiting.borrow_mut().push(cx.waker().clone());
            }
            task.as_mut().poll(cx)
        })
        .await;
    }
}

impl Shard {
    /// Starts a task that the shard cannot do without. If it panics, the shard dies.
    pub(crate) fn keep(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let shard = Rc::clone(self);
        monoio::spawn(async move {
            if !survives(pin!(shard.service.or(task))).await {
                shard.dying.set(true);
                shard.stir();
            }
        });
    }

    /// As [`Shard::keep`], for the task that keeps the alarms: it goes last, because others wait for alarms.
    pub(crate) fn keep_timers(self: &Rc<Self>) {
        let shard = Rc::clone(self);
        monoio::spawn(async move {
            let timers = Rc::clone(&shard.timers).run();
            if !survives(pin!(shard.clockwork.or(timers))).await {
                shard.dying.set(true);
                shard.stir();
            }
        });
    }
}

/// Ends everything that belongs to a dead shard, on its own runtime.
pub(crate) async fn bury(remains: Remains) {
    let Some(shard) = remains.take() else { return };
    shard.service.tell();
    shard.draining.set(true);
    shard.expired.set(true);
    shard.each_connection(Downstream::close_if_idle);
    shard.each_connection(Downstream::wake);
    if !released(&shard).await {
        shard.each_connection(Downstream::close);
        released(&shard).await;
    }
    shard.clockwork.tell();
    monoio::time::sleep(LOOK).await;
}

/// Waits until nobody but the caller and the alarms' task holds the shard; false if that takes too long.
async fn released(shard: &Rc<Shard>) -> bool {
    let begun = std::time::Instant::now();
    while Rc::strong_count(shard) > 2 {
        if begun.elapsed() > LAST_WORDS {
            return false;
        }
        monoio::time::sleep(LOOK).await;
    }
    true
}
