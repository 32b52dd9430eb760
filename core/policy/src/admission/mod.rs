//! A core's side of admission: requests ask here, and start from the credits that the core keeps, or wait.
//!
//! While nobody waits anywhere, a request takes a credit that lies here: no hop, no wait. Where there is none, it gets a
//! [`TicketId`] and the coordinator decides. Which of the two holds is the coordinator's to say, pool by pool
//! ([`crate::protocol`]).
//!
//! | file | what |
//! |---|---|
//! | this one | ask, wait, start, release |
//! | `books` | what was charged to whom, and what of it has been reported |
//! | `lengths` | what a request will probably cost at least |
//!
//! Pure; owned by one shard, touched by no other thread. It must never start a request without a credit, nor lose one.

mod books;
mod lengths;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use self::books::Books;
use crate::{
    cost::Cost,
    id::PoolIx,
    protocol::{Down, KeyShape, LeafId, Refusal, Ticket, TicketId, Up},
    unit::Instant,
};

/// A request that wants to start.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// On whose account.
    pub leaf: LeafId,
    /// What its key brings.
    pub shape: KeyShape,
    /// Its tenant or key may have only so many in flight: the coordinator counts them, so it is asked.
    pub capped: bool,
    /// What its input is expected to cost.
    pub input: Cost,
    /// Its output will be seen as it comes. Of one that comes at the end the cost so far is estimated.
    pub streams: bool,
    /// How long it may wait.
    pub patience: Duration,
    /// Refuse it rather than let it wait this long.
    pub reject_over: Option<Duration>,
}

/// The answer to an [`Ask`].
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start now.
    Granted(Slot),
    /// Wait: [`Admission::collect`] says when it is over.
    Queued(TicketId),
}

/// How a wait is.
#[derive(Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not over.
    Waiting,
    /// Start now.
    Granted {
        /// The right to.
        slot: Slot,
        /// How long it was expected to wait when it came, in milliseconds.
        predicted_ms: u32,
        /// How far ahead of its fair share its tenant is, in requests; below zero it is behind.
        standing: i32,
    },
    /// Not at all.
    Refused {
        /// Why.
        why: Refusal,
        /// When it might be worth another try, in milliseconds.
        retry_after_ms: u32,
    },
}

/// A request's input, as its backend counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What it costs.
    pub cost: Cost,
    /// How many tokens it has.
    pub tokens: u64,
    /// And bytes.
    pub bytes: u64,
}

/// The right to have one request in flight in a pool. Not `Clone`: it goes back once.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot {
    /// The pool it belongs to.
    pub pool: PoolIx,
    /// Place in the books.
    run: u32,
}

/// Where a ticket is.
#[derive(Debug)]
enum State {
    Free,
    Waiting,
    /// Nobody waits for it any more; the coordinator's answer is still to come.
    Left,
    /// Its request may start, and has not been told yet. `answered` is whether the coordinator's answer has come.
    Granted {
        slot: Slot,
        predicted_ms: u32,
        standing: i32,
        answered: bool,
    },
    Refused {
        why: Refusal,
        retry_after_ms: u32,
    },
}

#[derive(Debug)]
struct Place {
    ticket: Ticket,
    /// How many tickets there were before it.
    after: u64,
    ask: Ask,
    state: State,
}

/// See the module's text.
#[derive(Debug)]
pub struct Admission {
    life: u32,
    books: Books,
    places: Vec<Place>,
    free: Vec<u32>,
    outbox: VecDeque<Up>,
    waiting: u32,
    /// Tickets so far.
    seated: u64,
}

impl Admission {
    /// A core that holds nothing and lives under this number. It begins by saying so.
    #[must_use]
    pub fn new(life: u32) -> Self {
        let mut admission = Self {
            life,
            books: Books::default(),
            places: Vec::new(),
            free: Vec::new(),
            outbox: VecDeque::new(),
            waiting: 0,
            seated: 0,
        };
        admission.hello(life);
        admission
    }

    /// The number of this life; whatever comes for another is void.
    #[must_use]
    pub const fn life(&self) -> u32 {
        self.life
    }

    /// A request wants to start.
    pub fn ask(&mut self, now: Instant, ask: &Ask) -> Verdict {
        let leaf = self.books.open(now, ask.leaf, &mut self.outbox);
        let estimate = self.books.estimate(leaf, ask.input);
        if !ask.capped && self.books.take_credit(ask.leaf.pool) {
            return Verdict::Granted(self.books.start(now, leaf, ask, estimate));
        }
        let millis = |wait: Duration| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let ticket = Ticket {
            id: TicketId { place: 0, turn: 0 },
            leaf: ask.leaf,
            shape: ask.shape,
            estimate,
            patience_ms: millis(ask.patience),
            reject_over_ms: ask.reject_over.map(millis),
        };
        self.books.keep_open(leaf);
        let id = self.seat(ticket, ask);
        self.waiting = self.waiting.saturating_add(1);
        Verdict::Queued(id)
    }

    /// Requests that wait on this core.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Requests in flight in `pool` on this core.
    #[must_use]
    pub fn in_flight(&self, pool: PoolIx) -> u32 {
        self.books.in_use(pool)
    }

    /// Credits of `pool` that this core holds, used or not.
    #[must_use]
    pub fn held(&self, pool: PoolIx) -> u32 {
        self.books.held(pool)
    }

    /// How a ticket's wait is. After any answer but [`Wait::Waiting`] the ticket is no more.
    pub fn collect(&mut self, id: TicketId) -> Wait {
        let Some(place) = self.place(id) else {
            return Wait::Refused { why: Refusal::QueueFull, retry_after_ms: 0 };
        };
        match std::mem::replace(&mut place.state, State::Free) {
            State::Granted { slot, predicted_ms, standing, answered } => {
                self.leave(id, answered);
                Wait::Granted { slot, predicted_ms, standing }
            }
            State::Refused { why, retry_after_ms } => {
                self.leave(id, true);
                Wait::Refused { why, retry_after_ms }
            }
            state => {
                place.state = state;
                Wait::Waiting
            }
        }
    }

    /// Nobody waits for this ticket any more.
    pub fn withdraw(&mut self, now: Instant, id: TicketId) {
        let Some(place) = self.place(id) else { return };
        match std::mem::replace(&mut place.state, State::Left) {
            State::Waiting => {
                self.outbox.push_back(Up::Withdraw(id));
                self.waiting = self.waiting.saturating_sub(1);
            }
            State::Granted { slot, answered, .. } => {
                self.books.give_back(now, slot);
                self.leave(id, answered);
            }
            State::Refused { .. } => self.leave(id, true),
            state => place.state = state,
        }
    }

    /// What the coordinator says to the life of this number. Returns the ticket whose wait is over, if one is.
    pub fn obey(&mut self, now: Instant, life: u32, down: Down) -> Option<TicketId> {
        if life != self.life {
            return None;
        }
        match down {
            Down::Grant { ticket, predicted_ms, standing } => {
                self.granted(now, ticket, predicted_ms, standing)
            }
            Down::Refuse { ticket, why, retry_after_ms } => {
                let place = self.place(ticket)?;
                match place.state {
                    State::Waiting => {
                        place.state = State::Refused { why, retry_after_ms };
                        self.waiting = self.waiting.saturating_sub(1);
                        return Some(ticket);
                    }
                    _ => self.answered(ticket),
                }
                None
            }
            Down::Withdrawn(ticket) => {
                self.answered(ticket);
                None
            }
            Down::Stock(pool, credits) => {
                self.books.stock(pool, credits);
                None
            }
            Down::Recall(pool, every) => {
                self.books.recall(now, pool, every);
                None
            }
            Down::Resync => None,
        }
    }

    /// A life begins under this number: what came before is void for the coordinator, and is said again.
    pub fn hello(&mut self, life: u32) {
        self.life = life;
        self.outbox.clear();
        self.outbox.push_back(Up::Hello(life));
        // Answers to tickets that do not wait will not come any more.
        let ids: Vec<_> = self.places.iter().map(|place| place.ticket.id).collect();
        ids.into_iter().for_each(|id| self.answered(id));
        self.books.begin_again(&mut self.outbox);
        let waiting = self.places.iter().filter(|place| matches!(place.state, State::Waiting));
        self.outbox.extend(waiting.map(|place| Up::Ticket(place.ticket)));
        self.outbox.push_back(Up::Told);
    }

    /// The input of a running request, now that it is known.
    pub fn learn_input(&mut self, slot: &Slot, counted: Counted) {
        self.books.learn_input(slot.run, counted);
    }

    /// How many tokens a request of so many bytes will have, as those of its pool went before it.
    #[must_use]
    pub fn guess_tokens(&self, pool: PoolIx, bytes: u64) -> u64 {
        self.books.guess_tokens(pool, bytes)
    }

    /// A running request has cost this much so far.
    pub fn progress(&mut self, now: Instant, slot: &Slot, cost: Cost) {
        self.books.progress(now, slot.run, cost);
    }

    /// A request has ended, and has cost this much.
    pub fn release(&mut self, now: Instant, slot: Slot, cost: Cost) {
        self.books.end(now, slot, cost);
    }

    /// Hands everything that is to be said now to `push`, until that refuses. False if something is left.
    pub fn say(&mut self, now: Instant, mut push: impl FnMut(Up) -> Result<(), Up>) -> bool {
        // Totals are taken when there is room for them: behind a full link they would only pile up and grow old.
        if !self.hand_over(&mut push) {
            return false;
        }
        self.books.report(now, &mut self.outbox);
        self.hand_over(&mut push)
    }

    fn hand_over(&mut self, push: &mut impl FnMut(Up) -> Result<(), Up>) -> bool {
        while let Some(up) = self.outbox.pop_front() {
            if let Err(up) = push(up) {
                self.outbox.push_front(up);
                return false;
            }
        }
        true
    }

    /// Whether [`Admission::say`] has something that must not wait.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        !self.outbox.is_empty() || self.books.is_urgent()
    }

    /// When [`Admission::say`] has to be called at the latest, if nothing else happens.
    #[must_use]
    pub const fn reports_at(&self) -> Option<Instant> {
        self.books.due()
    }

    fn granted(&mut self, now: Instant, id: TicketId, predicted_ms: u32, standing: i32) -> Option<TicketId> {
        let known = self.place(id)?;
        let (leaf_id, estimate) = (known.ticket.leaf, known.ticket.estimate);
        let was_left = !matches!(known.state, State::Waiting);
        let leaf = self.books.open(now, leaf_id, &mut self.outbox);
        self.books.receive(now, leaf, estimate);
        if !was_left {
            self.waiting = self.waiting.saturating_sub(1);
            return self.start(now, id, (predicted_ms, standing), true);
        }
        self.answered(id);
        // The credit came for somebody who has left: the next of the same key may have it, first come first, nobody else.
        let same = |place: &&Place| matches!(place.state, State::Waiting) && place.ticket.leaf == leaf_id;
        let next = self.places.iter().filter(same).min_by_key(|place| place.after);
        match next.map(|place| place.ticket.id) {
            Some(next) => {
                self.outbox.push_back(Up::Withdraw(next));
                self.waiting = self.waiting.saturating_sub(1);
                self.start(now, next, (predicted_ms, standing), false)
            }
            None => {
                self.books.return_credit(now, leaf_id.pool, true);
                None
            }
        }
    }

    fn start(
        &mut self,
        now: Instant,
        id: TicketId,
        (predicted_ms, standing): (u32, i32),
        answered: bool,
    ) -> Option<TicketId> {
        let place = self.places.get_mut(id.place as usize)?;
        let leaf = self.books.open(now, place.ticket.leaf, &mut self.outbox);
        let slot = self.books.start(now, leaf, &place.ask, place.ticket.estimate);
        place.state = State::Granted { slot, predicted_ms, standing, answered };
        Some(id)
    }

    fn place(&mut self, id: TicketId) -> Option<&mut Place> {
        let place = self.places.get_mut(id.place as usize)?;
        (place.ticket.id == id && !matches!(place.state, State::Free)).then_some(place)
    }

    fn seat(&mut self, mut ticket: Ticket, ask: &Ask) -> TicketId {
        let at = self.free.pop().unwrap_or_else(|| u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        let turn = self.places.get(at as usize).map_or(0, |place| place.ticket.id.turn.wrapping_add(1));
        ticket.id = TicketId { place: at, turn };
        let place = Place { ticket, after: self.seated, ask: *ask, state: State::Waiting };
        self.seated = self.seated.wrapping_add(1);
        match self.places.get_mut(at as usize) {
            Some(known) => *known = place,
            None => self.places.push(place),
        }
        self.outbox.push_back(Up::Ticket(ticket));
        ticket.id
    }

    /// The request is done with its ticket. The place is free once the coordinator has answered, too.
    fn leave(&mut self, id: TicketId, answered: bool) {
        if let Some(place) = self.places.get_mut(id.place as usize) {
            place.state = State::Left;
        }
        if answered {
            self.answered(id);
        }
    }

    /// The coordinator's answer to a ticket has come.
    fn answered(&mut self, id: TicketId) {
        let Some(place) = self.places.get_mut(id.place as usize).filter(|place| place.ticket.id == id) else {
            return;
        };
        match &mut place.state {
            State::Left => {
                place.state = State::Free;
                self.books.let_close(place.ticket.leaf);
                self.free.push(id.place);
            }
            State::Granted { answered, .. } => *answered = true,
            _ => {}
        }
    }
}
