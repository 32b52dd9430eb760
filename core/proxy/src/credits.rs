//! A shard's dealings with the owner of the limits: credits in, words out, and who waits for an answer.
//!
//! It exists so that the path of a request sees three things only: a reservation, a wait, or a refusal. A request whose
//! limits have credits here asks nobody.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    mem,
    rc::Rc,
    task::{Poll, Waker},
};

use obleth_policy::limit::{Down, Foresight, Lacking, Measure, Now, Purses, Rate, Reserved, Scopes};

use crate::{reminder::Reminder, shard::Shard, timer::Timers};

/// What a shard has to do with limits. Owned by the shard.
#[derive(Debug)]
pub(crate) struct Credits {
    pub(crate) purses: RefCell<Purses>,
    pub(crate) foresight: RefCell<Foresight>,
    /// Who waits for an answer, in the order in which they came.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next_waiter: Cell<u64>,
    words: Reminder,
    /// The last request that asked had no answer: said once, until one has.
    pub(crate) unanswered: Cell<bool>,
}

impl Credits {
    pub(crate) fn new(life: u32, timers: &Rc<Timers>) -> Self {
        Self {
            purses: RefCell::new(Purses::new(life)),
            foresight: RefCell::default(),
            waiting: RefCell::default(),
            next_waiter: Cell::new(0),
            words: Reminder::new(timers),
            unanswered: Cell::new(false),
        }
    }
}

impl Shard {
    /// What time it is on both clocks, as of their last reading.
    pub(crate) fn both_clocks(&self) -> Now {
        let clock = self.timers.clock();
        Now { wall: clock.recent_unix_ms(), monotonic: clock.recent() }
    }

    /// What was reserved has come to this.
    pub(crate) fn settle_credits(&self, reserved: Reserved, came_to: impl Fn(Measure) -> u64) {
        if reserved.is_empty() {
            return;
        }
        self.credits.purses.borrow_mut().settle(self.both_clocks(), reserved, came_to);
        self.speak_of_credits();
    }

    /// How the tightest rate of each of these measures stands.
    pub(crate) fn rates<const N: usize>(
        &self,
        scopes: &Scopes<'_>,
        measures: [Measure; N],
    ) -> [Option<Rate>; N] {
        self.credits.purses.borrow().rates(self.both_clocks(), scopes, measures)
    }

    /// What the owner of the limits said.
    pub(crate) fn hear_of_credits(&self, life: u32, down: Down) {
        let mut purses = self.credits.purses.borrow_mut();
        let is_answer = match down {
            Down::Resync => {
                purses.hello(self.end.new_life());
                true
            }
            down => purses.obey(self.both_clocks(), life, down),
        };
        drop(purses);
        if is_answer {
            self.credits.unanswered.set(false);
            mem::take(&mut *self.credits.waiting.borrow_mut()).into_values().for_each(Waker::wake);
        }
    }

    /// Says what cannot wait, if there is something.
    pub(crate) fn speak_of_credits(&self) {
        if self.credits.purses.borrow().is_urgent() {
            self.say_all_of_credits();
        } else {
            self.expect_words();
        }
    }

    fn say_all_of_credits(&self) {
        let mut purses = self.credits.purses.borrow_mut();
        let (life, now) = (purses.life(), self.both_clocks());
        let mut has_said = false;
        let all_said = purses.say(now, |up| {
            self.end.ask(life, up)?;
            has_said = true;
            Ok(())
        });
        drop(purses);
        if has_said {
            self.end.ring_coordinator();
        }
        if all_said {
            self.expect_words();
        } else {
            self.credits.words.again(now.monotonic);
        }
    }

    fn expect_words(&self) {
        self.credits.words.expect(self.credits.purses.borrow().say_at());
    }

    /// Says what was used when its time has come. Never returns.
    pub(crate) async fn say_what_was_used(self: Rc<Self>) {
        loop {
            self.credits.words.wait().await;
            self.timers.clock().now();
            self.say_all_of_credits();
        }
    }

    /// Waits until everything that is lacking has been answered. May be given up.
    pub(crate) async fn credits_answered(&self, lacking: &Lacking) {
        let waiter = Waiter { credits: &self.credits, number: self.credits.next_waiter.get() };
        self.credits.next_waiter.set(waiter.number.wrapping_add(1));
        poll_fn(|cx| {
            if self.credits.purses.borrow().has_answer(lacking) {
                return Poll::Ready(());
            }
            self.credits.waiting.borrow_mut().insert(waiter.number, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A request's place among those who wait for an answer. Dropping it gives the place up.
struct Waiter<'a> {
    credits: &'a Credits,
    number: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.credits.waiting.borrow_mut().remove(&self.number);
    }
}
