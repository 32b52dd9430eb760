//! The owner of the limits: who hands credits out to the shards, and the books of it.
//!
//! There is one per process. It answers every want with credits, or with a *no* that is true: before it says no it has
//! called home what other shards hold free. A shard gets more than it asked for while there is plenty, and exactly what it
//! asked for when there is little, so that little is stranded. Several processes share limits by putting a shared store
//! behind the same two words, want and used.

mod account;

use std::collections::BTreeMap;

use self::account::{Account, Ask, CameTo, Home};
use super::{Correction, Definition, Down, LimitBook, Limits, Meter, Scope, Spent, Standing, Up};
use crate::unit::{Instant, UnixMs};

/// What the owner has to say after a step.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To these shards.
    pub words: Vec<(usize, Down)>,
    /// Budgets that refused a request for the first time in their period, and its first moment.
    pub exhausted: Vec<(Meter, UnixMs)>,
}

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Rates go by it.
    pub monotonic: Instant,
    /// Periods of budgets go by it.
    pub wall: UnixMs,
}

impl Now {
    /// Whole milliseconds of the monotonic clock, as stamps have them.
    pub(super) fn ms(self) -> i64 {
        i64::try_from(self.monotonic.0 / 1_000_000).unwrap_or(i64::MAX)
    }
}

/// See the module's text. Owned by the coordinator's thread.
#[derive(Debug)]
pub struct Owner {
    /// The life of each shard that has said [`Up::Hello`].
    lives: Vec<Option<u32>>,
    definitions: BTreeMap<Scope, Definition>,
    accounts: BTreeMap<Meter, Account>,
    /// Nobody has said yet what the limits are: wants wait.
    begun: bool,
    early: Vec<(usize, u32, Up)>,
    /// When the first recall under way has taken too long, or earlier.
    wake: Option<Instant>,
}

impl Owner {
    /// An owner that knows nothing yet.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self {
            lives: vec![None; shards],
            definitions: BTreeMap::new(),
            accounts: BTreeMap::new(),
            begun: false,
            early: Vec::new(),
            wake: None,
        }
    }

    /// These are all limits, and what their budgets have used. What is known of a meter that stays, stays.
    pub fn configure(&mut self, now: Now, book: &LimitBook, out: &mut Outbox) {
        let known: Vec<Scope> = self.definitions.keys().copied().collect();
        let listed: BTreeMap<Scope, Definition> = book.definitions.iter().map(|d| (d.scope, *d)).collect();
        for scope in known.into_iter().filter(|scope| !listed.contains_key(scope)) {
            let gone = self.definitions.get(&scope).map(|old| Definition { limits: Limits::NONE, ..*old });
            if let Some(gone) = gone {
                self.define(now, gone, out);
            }
        }
        for definition in listed.into_values() {
            self.define(now, definition, out);
        }
        // Later ones are no news: shards have said what they used since.
        let spent = if self.begun { &[] } else { book.spent.as_slice() };
        for &Spent { meter, since, amount } in spent {
            if let Some(account) = self.account(now, meter) {
                account.begin_with(since, amount);
            }
        }
        self.begun = true;
        for (shard, life, up) in std::mem::take(&mut self.early) {
            self.take(now, (shard, life), up, out);
        }
    }

    /// The limits of one scope were set, or its periods have moved on.
    pub fn define(&mut self, now: Now, definition: Definition, out: &mut Outbox) {
        let scope = definition.scope;
        match definition.limits.is_none() {
            true => self.definitions.remove(&scope),
            false => self.definitions.insert(scope, definition),
        };
        for measure in super::Measure::ALL {
            let meter = Meter { scope, measure };
            // One that is not there is made when it is first asked for.
            let Some(account) = self.accounts.get_mut(&meter) else { continue };
            match definition.limits.get(measure) {
                Some(limit) => account.redefine(now, limit, definition.turn(measure), out),
                None => account.close(out),
            }
        }
    }

    /// What a budget has used is not what the usage ledger says.
    pub fn correct(&mut self, now: Now, correction: Correction) {
        let Correction { meter, since, by } = correction;
        if let Some(account) = self.account(now, meter) {
            account.correct(since, by);
        }
    }

    /// Takes in what a shard says.
    pub fn take(&mut self, now: Now, (shard, life): (usize, u32), up: Up, out: &mut Outbox) {
        let Some(meter) = up.meter() else {
            self.bury(now, shard, out);
            if let Some(known) = self.lives.get_mut(shard) {
                *known = Some(life);
            }
            return;
        };
        if self.life(shard) != Some(life) {
            return;
        }
        if !self.begun {
            self.early.push((shard, life, up));
            return;
        }
        let is_want = matches!(up, Up::Want { .. });
        let account = match is_want || !self.accounts.contains_key(&meter) {
            true => self.account(now, meter),
            // Requests may end after their limit was taken away, and it may come back.
            false => self.accounts.get_mut(&meter),
        };
        let Some(account) = account else {
            if is_want {
                out.words.push((shard, Down::Unlimited(meter)));
            }
            return;
        };
        match up {
            Up::Hello => {}
            Up::Want { need, least, has, .. } => {
                account.ask(now, Ask { shard, need, least: least.min(need), has, has_called: false }, out);
                let recall_ends = account.recall_ends();
                self.wake = self.wake.into_iter().chain(recall_ends).min();
            }
            Up::Used { at, amount, overdraft, reserved, .. } => {
                account.note_used(now, CameTo { shard, at, amount, overdraft, reserved }, out);
            }
            Up::Return { at, amount, reserved, recalled, .. } => {
                account.note_return(now, Home { shard, at, amount, reserved, recalled }, out);
            }
        }
    }

    /// A shard's thread is gone. What it held counts as used, until the usage ledger says better.
    pub fn bury(&mut self, now: Now, shard: usize, out: &mut Outbox) {
        if let Some(life) = self.lives.get_mut(shard) {
            *life = None;
        }
        self.early.retain(|(of, ..)| *of != shard);
        for account in self.accounts.values_mut() {
            account.bury(now, shard, out);
        }
    }

    /// Answers those whose recall has taken too long. To be called at [`Owner::wakes_at`].
    pub fn decide(&mut self, now: Now, out: &mut Outbox) {
        if self.wake.is_some_and(|at| at <= now.monotonic) {
            for account in self.accounts.values_mut() {
                account.give_up_recall(now, out);
            }
            self.wake = self.accounts.values().filter_map(Account::recall_ends).min();
        }
    }

    /// When [`Owner::decide`] has something to do.
    #[must_use]
    pub const fn wakes_at(&self) -> Option<Instant> {
        self.wake
    }

    /// The life that words to this shard are for; `None` if it has not said hello.
    #[must_use]
    pub fn life(&self, shard: usize) -> Option<u32> {
        self.lives.get(shard).copied().flatten()
    }

    /// How every meter stands that was asked for or has used something. Books that nothing is in are forgotten.
    pub fn standings(&mut self, now: Now) -> Vec<Standing> {
        self.accounts.retain(|_, account| !account.is_idle(now));
        let definitions = &self.definitions;
        let limited = |meter: &Meter| {
            definitions.get(&meter.scope).is_some_and(|of| of.limits.get(meter.measure).is_some())
        };
        let accounts = self.accounts.iter_mut().filter(|(meter, _)| limited(meter));
        accounts.map(|(meter, account)| account.standing(now, *meter)).collect()
    }

    /// The meter's account, with its period of now; `None` if it has no limit.
    fn account(&mut self, now: Now, meter: Meter) -> Option<&mut Account> {
        let definition = self.definitions.get(&meter.scope)?;
        let limit = definition.limits.get(meter.measure)?;
        let (turn, shards) = (definition.turn(meter.measure), self.lives.len());
        let account = self.accounts.entry(meter).or_insert_with(|| Account::new(meter, limit, turn, shards));
        account.roll(now);
        Some(account)
    }
}
