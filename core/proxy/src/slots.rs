//! A shard's dealings with the coordinator: words out, words in, and who waits for an answer.
//!
//! It exists so that the path of a request sees three things only: a slot, a wait, or a refusal. Words that cannot wait go
//! out at once, behind one ring of the bell; the rest goes out with them, or when its time has come.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use obleth_policy::{
    admission::{Admission, Ask, Counted, Slot, Verdict, Wait},
    cost::Cost,
    id::PoolIx,
    protocol::{Down, TicketId},
};

use crate::{reminder::Reminder, shard::Shard, timer::Timers};

/// What a shard has to do with slots. Owned by the shard.
#[derive(Debug)]
pub(crate) struct Slots {
    admission: RefCell<Admission>,
    /// By place of the ticket.
    waiting: RefCell<Vec<Option<Waker>>>,
    reports: Reminder,
}

impl Slots {
    pub(crate) fn new(life: u32, timers: &Rc<Timers>) -> Self {
        Self {
            admission: RefCell::new(Admission::new(life)),
            waiting: RefCell::default(),
            reports: Reminder::new(timers),
        }
    }
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    shard: &'a Rc<Shard>,
    id: TicketId,
    pool: PoolIx,
    over: bool,
}

impl Shard {
    /// A request wants to start.
    pub(crate) fn ask_for_slot(self: &Rc<Self>, ask: &Ask) -> Result<Slot, Turn<'_>> {
        let verdict = self.slots.admission.borrow_mut().ask(self.timers.clock().recent(), ask);
        self.speak();
        match verdict {
            Verdict::Granted(slot) => Ok(slot),
            Verdict::Queued(id) => Err(Turn::begin(self, id, ask.leaf.pool)),
        }
    }

    /// The input of a running request, now that it is known.
    pub(crate) fn learn_input(&self, slot: &Slot, counted: Counted) {
        self.slots.admission.borrow_mut().learn_input(slot, counted);
    }

    /// How many tokens a request of so many bytes will have.
    pub(crate) fn guess_tokens(&self, pool: PoolIx, bytes: u64) -> u64 {
        self.slots.admission.borrow().guess_tokens(pool, bytes)
    }

    /// A running request has cost this much so far.
    pub(crate) fn slot_progress(&self, slot: &Slot, cost: Cost) {
        self.slots.admission.borrow_mut().progress(self.timers.clock().recent(), slot, cost);
        self.expect_report();
    }

    /// A request has ended, and has cost this much.
    pub(crate) fn release_slot(&self, slot: Slot, cost: Cost) {
        self.slots.admission.borrow_mut().release(self.timers.clock().recent(), slot, cost);
        self.speak();
    }

    /// What the coordinator said.
    pub(crate) fn hear(&self, life: u32, down: Down) {
        let mut admission = self.slots.admission.borrow_mut();
        if down == Down::Resync {
            admission.hello(self.end.new_life());
            return;
        }
        if let Some(ticket) = admission.obey(self.timers.clock().recent(), life, down)
            && let Some(waker) =
                self.slots.waiting.borrow_mut().get_mut(ticket.place as usize).and_then(Option::take)
        {
            waker.wake();
        }
    }

    /// Says what cannot wait, if there is something.
    pub(crate) fn speak(&self) {
        if self.slots.admission.borrow().is_urgent() {
            self.say_all();
        } else {
            self.expect_report();
        }
    }

    fn say_all(&self) {
        let mut admission = self.slots.admission.borrow_mut();
        let life = admission.life();
        let now = self.timers.clock().recent();
        let mut has_said = false;
        let all_said = admission.say(now, |up| {
            self.end.say(life, up)?;
            has_said = true;
            Ok(())
        });
        drop(admission);
        if has_said {
            self.end.ring_coordinator();
        }
        if all_said {
            self.expect_report();
        } else {
            self.slots.reports.again(now);
        }
    }

    fn expect_report(&self) {
        self.slots.reports.expect(self.slots.admission.borrow().reports_at());
    }

    /// Reports service when its time has come. Never returns.
    pub(crate) async fn report_service(self: Rc<Self>) {
        loop {
            self.slots.reports.wait().await;
            self.timers.clock().now();
            self.say_all();
        }
    }
}

impl<'a> Turn<'a> {
    fn begin(shard: &'a Rc<Shard>, id: TicketId, pool: PoolIx) -> Self {
        let gauges = shard.end.gauges();
        gauges.queued.add(1);
        if let Some(count) = gauges.pool_queued(pool) {
            count.add(1);
        }
        Self { shard, id, pool, over: false }
    }

    /// Waits until the coordinator has answered. The answer is never [`Wait::Waiting`].
    pub(crate) async fn answer(&mut self) -> Wait {
        let wait = poll_fn(|cx| {
            match self.shard.slots.admission.borrow_mut().collect(self.id) {
                Wait::Waiting => {}
                over => return Poll::Ready(over),
            }
            let mut waiting = self.shard.slots.waiting.borrow_mut();
            let place = self.id.place as usize;
            if waiting.len() <= place {
                waiting.resize(place.saturating_add(1), None);
            }
            if let Some(waker) = waiting.get_mut(place) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        self.over = true;
        wait
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let gauges = self.shard.end.gauges();
        gauges.queued.sub(1);
        if let Some(count) = gauges.pool_queued(self.pool) {
            count.sub(1);
        }
        if !self.over {
            let now = self.shard.timers.clock().recent();
            self.shard.slots.admission.borrow_mut().withdraw(now, self.id);
            self.shard.speak();
        }
    }
}
