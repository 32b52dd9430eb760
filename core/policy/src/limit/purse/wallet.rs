//! The purses of one scope, one per measure.

use std::{collections::VecDeque, time::Duration};

use smallvec::SmallVec;

use super::{Rate, Want};
use crate::{
    limit::{Measure, Meter, Period, Scope, Stamp, Up, minute::WINDOW_MS, owner::Now},
    unit::{Instant, UnixMs},
};

/// How long scarce credits stay for those they were granted for, who are woken at once.
pub(super) const FRESH: Duration = Duration::from_millis(5);

/// How long, in milliseconds, credits are good at least whose period is over by this shard's clock alone.
const AHEAD_MS: i64 = 5;

/// How long what the owner said is left of a budget is good enough to go by.
const LATELY: Duration = Duration::from_millis(100);

/// The owner's no, as far as it concerns other requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    pub(super) least: u64,
    pub(super) again_ms: u64,
    pub(super) ends: UnixMs,
}

/// Credits of one meter. Owned by its wallet.
#[derive(Debug)]
pub(super) struct Purse {
    pub(super) measure: Measure,
    /// Credits that nobody has reserved.
    pub(super) free: u64,
    /// Credits that requests have reserved; of a budget only, and of its period under way.
    pub(super) reserved: u64,
    /// What others may still use, as the owner last said.
    pub(super) beside: i64,
    /// What falls free goes home at once.
    pub(super) scarce: bool,
    /// What the owner was last told that requests have reserved.
    said_reserved: u64,
    /// The owner waits to hear what is free.
    pub(super) recalled: bool,
    /// The last grant was all that there was.
    pub(super) partial: bool,
    /// A want is under way.
    pub(super) wants: bool,
    /// What the last want was for.
    pub(super) wanted: u64,
    /// Answers that have come; wraps.
    pub(super) answers: u32,
    pub(super) answered_at: Option<Instant>,
    pub(super) short: Option<Short>,
    pub(super) unlimited_until: Instant,
    /// Of the free credits, those that were wanted, until somebody takes them, and until when they are kept for whoever
    /// wanted them.
    fresh: u64,
    fresh_until: Instant,
    /// A budget's period, as granted credits say it.
    period: (Stamp, UnixMs),
    /// Milliseconds at which something was last used of a rate, and at which the owner last said what is left.
    last_used: i64,
    last_heard: i64,
    /// What was used since it was last said, by when.
    unsaid: SmallVec<[(Stamp, i64); 2]>,
    /// The sum of it.
    unsaid_sum: i64,
    overdraft: u64,
}

/// See the module's text. Owned by [`super::Purses`].
#[derive(Debug)]
pub(super) struct Wallet {
    pub(super) scope: Scope,
    /// By the place of their measure.
    purses: [Option<Box<Purse>>; Measure::COUNT],
    /// When a request last had to do with it.
    pub(super) touched: Instant,
    /// Parts that requests in flight have in it.
    parts: u32,
    /// It stands on the list of those with something unsaid.
    pub(super) has_news: bool,
}

impl Wallet {
    pub(super) fn new(scope: Scope, now: Instant) -> Self {
        Self { scope, purses: [const { None }; Measure::COUNT], touched: now, parts: 0, has_news: false }
    }

    pub(super) fn find(&self, measure: Measure) -> Option<&Purse> {
        self.purses.get(measure.ix())?.as_deref()
    }

    #[expect(clippy::indexing_slicing, reason = "every measure has a place")]
    pub(super) fn purse(&mut self, measure: Measure) -> &mut Purse {
        self.purses[measure.ix()].get_or_insert_with(|| Box::new(Purse::new(measure)))
    }

    /// All that there are.
    pub(super) fn purses(&mut self) -> impl Iterator<Item = &mut Purse> {
        self.purses.iter_mut().flatten().map(Box::as_mut)
    }

    /// Whether a request has a part in it, or waits for it.
    pub(super) fn is_busy(&self) -> bool {
        self.parts > 0
            || self.purses.iter().flatten().any(|purse| purse.wants || purse.recalled || purse.has_news())
    }

    /// A request takes what is there.
    pub(super) fn take(&mut self, measure: Measure, (stamp, amount): (Stamp, u64)) -> &mut Purse {
        self.parts = self.parts.saturating_add(1);
        let purse = self.purse(measure);
        purse.take(stamp, amount);
        purse
    }

    /// What it took has come to this amount.
    pub(super) fn settle(
        &mut self,
        now: Now,
        measure: Measure,
        taken: (Stamp, u64),
        amount: u64,
    ) -> &mut Purse {
        self.parts = self.parts.saturating_sub(1);
        let purse = self.purse(measure);
        purse.settle(now, taken, amount);
        purse
    }

    /// Says what was used, and gives back what is scarce. True if something is kept for those it was granted for.
    pub(super) fn report(&mut self, now: Now, out: &mut VecDeque<Up>) -> bool {
        self.has_news = false;
        let mut keeps = false;
        let scope = self.scope;
        for purse in self.purses() {
            let meter = Meter { scope, measure: purse.measure };
            while let Some(used) = purse.report(meter) {
                out.push_back(used);
            }
            out.extend(purse.answer_recall(now, meter));
            if purse.scarce {
                let fresh = purse.fresh(now);
                out.extend(purse.give_back(meter, fresh));
                keeps |= purse.free > 0 || purse.recalled;
            }
        }
        keeps
    }

    pub(super) fn give_back(&mut self, out: &mut VecDeque<Up>) {
        let scope = self.scope;
        for purse in self.purses() {
            out.extend(purse.give_back(Meter { scope, measure: purse.measure }, 0));
        }
    }
}

impl Purse {
    fn new(measure: Measure) -> Self {
        Self {
            measure,
            free: 0,
            reserved: 0,
            beside: 0,
            scarce: false,
            said_reserved: 0,
            recalled: false,
            partial: false,
            wants: false,
            wanted: 0,
            answers: 0,
            answered_at: None,
            short: None,
            unlimited_until: Instant::default(),
            fresh: 0,
            fresh_until: Instant::default(),
            period: (Stamp(0), UnixMs(i64::MAX)),
            last_used: i64::MIN,
            last_heard: i64::MIN,
            unsaid: SmallVec::new(),
            unsaid_sum: 0,
            overdraft: 0,
        }
    }

    pub(super) fn is_unlimited(&self, now: Now) -> bool {
        now.monotonic < self.unlimited_until
    }

    /// Credits of a period that is over are worth nothing, and what was left of a rate a minute ago is all of it now.
    pub(super) fn roll(&mut self, now: Now, limit: u64) {
        if now.wall >= self.period.1 {
            (self.free, self.reserved, self.overdraft) = (0, 0, 0);
        }
        let last = self.last_used.max(self.last_heard);
        if !self.measure.is_budget() && last != i64::MIN && now.ms().saturating_sub(last) >= WINDOW_MS {
            self.hear_left(now, signed(limit).saturating_sub(signed(self.free)));
        }
    }

    /// What others may still use, beside what is here.
    pub(super) fn hear_left(&mut self, now: Now, left: i64) {
        (self.beside, self.last_heard) = (left, now.ms());
    }

    /// What is left of a budget for anybody, if the owner has said it in this period.
    pub(super) fn left(&self, now: Now) -> Option<u64> {
        if self.is_unlimited(now) {
            return Some(u64::MAX);
        }
        self.answered_at.filter(|_| now.wall < self.period.1)?;
        Some(u64::try_from(self.beside).unwrap_or(0).saturating_add(self.free))
    }

    pub(super) fn is_answered_lately(&self, now: Now) -> bool {
        self.left(now).is_some() && self.answered_at.is_some_and(|at| now.monotonic.since(at) < LATELY)
    }

    /// What a request finds that has waited for it, or one that has just come.
    pub(super) fn free_for(&self, now: Now, waited: bool) -> u64 {
        if waited { self.free } else { self.free.saturating_sub(self.fresh(now)) }
    }

    /// Asks the owner, unless it has been asked already: then false.
    pub(super) fn ask(&mut self, meter: Meter, want: Want, out: &mut VecDeque<Up>) -> bool {
        if std::mem::replace(&mut self.wants, true) {
            return false;
        }
        while let Some(used) = self.report(meter) {
            out.push_back(used);
        }
        let Want { need, least } = want;
        self.wanted = need;
        out.push_back(Up::Want { meter, need, least, has: self.free });
        true
    }

    /// What is free, if the period has not ended meanwhile.
    pub(super) fn free_at(&self, now: Now) -> u64 {
        if now.wall >= self.period.1 { 0 } else { self.free }
    }

    /// When what is taken now counts.
    pub(super) fn stamp(&self, now: Now) -> Stamp {
        if self.measure.is_budget() { self.period.0 } else { Stamp(now.ms()) }
    }

    pub(super) fn granted(&mut self, now: Now, amount: u64, period: (Stamp, UnixMs)) {
        if self.measure.is_budget() && self.period.0 != period.0 {
            (self.free, self.reserved, self.overdraft) = (0, 0, 0);
        }
        // The owner's word goes before this shard's clock, which may be ahead of it.
        let ends = UnixMs(period.1.0.max(now.wall.0.saturating_add(AHEAD_MS)));
        self.period = (period.0, ends);
        self.free = self.free.saturating_add(amount);
        (self.fresh, self.fresh_until) = (self.free.min(self.wanted), now.monotonic.plus(FRESH));
    }

    /// There was enough.
    fn take(&mut self, stamp: Stamp, amount: u64) {
        self.free = self.free.saturating_sub(amount);
        self.fresh = self.fresh.saturating_sub(amount);
        match self.measure.period() {
            Period::Minute => {
                self.last_used = stamp.0;
                self.note(stamp, signed(amount));
            }
            _ => {
                self.reserved = self.reserved.saturating_add(amount);
                self.note(stamp, 0);
            }
        }
    }

    /// What was taken has come to this amount.
    fn settle(&mut self, now: Now, (stamp, taken): (Stamp, u64), amount: u64) {
        if self.measure.is_budget() {
            return self.settle_budget(stamp, taken, amount);
        }
        if amount > taken {
            let more = amount.saturating_sub(taken);
            self.draw(more);
            self.last_used = now.ms();
            self.note(Stamp(now.ms()), signed(more));
        } else if amount < taken && now.ms().saturating_sub(stamp.0) < WINDOW_MS {
            let less = taken.saturating_sub(amount);
            self.free = self.free.saturating_add(less);
            self.note(stamp, signed(less).saturating_neg());
        }
    }

    fn settle_budget(&mut self, stamp: Stamp, taken: u64, amount: u64) {
        if stamp != self.period.0 {
            // Of a period that is over, with the credits that it had.
            return;
        }
        self.reserved = self.reserved.saturating_sub(taken);
        self.free = self.free.saturating_add(taken);
        self.draw(amount);
        // Also of nothing: what is reserved has changed.
        self.note(stamp, signed(amount));
    }

    /// Takes it without asking where there is not enough.
    fn draw(&mut self, amount: u64) {
        let lacking = amount.saturating_sub(self.free);
        self.free = self.free.saturating_sub(amount);
        self.overdraft = self.overdraft.saturating_add(lacking);
    }

    fn note(&mut self, stamp: Stamp, amount: i64) {
        self.unsaid_sum = self.unsaid_sum.saturating_add(amount);
        // The latest moments come last, and most of what is noted is of them.
        match self.unsaid.iter_mut().rev().find(|(known, _)| *known == stamp) {
            Some((_, sum)) => *sum = sum.saturating_add(amount),
            None => self.unsaid.push((stamp, amount)),
        }
    }

    pub(super) fn has_news(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// Whether there are free credits here, and by what the owner was told there can be none: it would not ask for them.
    pub(super) fn is_hidden(&self) -> bool {
        let has =
            signed(self.free).saturating_add(signed(self.reserved)).saturating_sub(signed(self.overdraft));
        self.free > 0 && has.saturating_add(self.unsaid_sum) <= signed(self.said_reserved)
    }

    /// One thing that was used, said once.
    pub(super) fn report(&mut self, meter: Meter) -> Option<Up> {
        let (at, amount) = self.unsaid.pop()?;
        self.unsaid_sum = self.unsaid_sum.saturating_sub(amount);
        let (overdraft, reserved) = (std::mem::take(&mut self.overdraft), self.reserved);
        self.said_reserved = reserved;
        Some(Up::Used { meter, at, amount, overdraft, reserved })
    }

    /// What of the free credits those should find that they were granted for.
    fn fresh(&self, now: Now) -> u64 {
        if now.monotonic < self.fresh_until { self.fresh.min(self.free) } else { 0 }
    }

    fn give_back(&mut self, meter: Meter, keep: u64) -> Option<Up> {
        let amount = self.free.saturating_sub(keep);
        if amount == 0 {
            return None;
        }
        (self.free, self.said_reserved) = (keep, self.reserved);
        self.beside = self.beside.saturating_add_unsigned(amount);
        Some(Up::Return { meter, at: self.since(), amount, reserved: self.reserved, recalled: false })
    }

    /// Others lack them, and are to be told what is free here: once those have run that credits were granted for just now.
    /// They are woken already; without that wait two shards could take the same credits from each other for ever.
    pub(super) fn recall(&mut self) {
        (self.scarce, self.recalled) = (true, true);
    }

    /// The answer to a recall, when it is time for it.
    pub(super) fn answer_recall(&mut self, now: Now, meter: Meter) -> Option<Up> {
        if !self.recalled || self.fresh(now) > 0 {
            return None;
        }
        self.recalled = false;
        let (amount, reserved) = (std::mem::take(&mut self.free), self.reserved);
        self.said_reserved = reserved;
        self.beside = self.beside.saturating_add_unsigned(amount);
        Some(Up::Return { meter, at: self.since(), amount, reserved, recalled: true })
    }

    /// The period that its credits are of; 0 for a rate.
    const fn since(&self) -> Stamp {
        self.period.0
    }

    /// A new life begins with nothing but what is reserved, and what was used of a rate and not yet said: what was used of a
    /// budget is in the usage log.
    pub(super) fn begin_life(&mut self, meter: Meter) -> Option<Up> {
        (self.free, self.overdraft, self.wants, self.short) = (0, 0, false, None);
        self.recalled = false;
        self.answers = self.answers.wrapping_add(1);
        if self.measure.is_budget() {
            self.unsaid.clear();
            self.unsaid_sum = 0;
        }
        let (at, _) = self.period;
        let (overdraft, reserved) = (self.reserved, self.reserved);
        self.said_reserved = reserved;
        (reserved > 0).then_some(Up::Used { meter, at, amount: 0, overdraft, reserved })
    }

    pub(super) fn rate(&self, now: Now, limit: u64) -> Rate {
        let left = u64::try_from(self.beside).unwrap_or(0).saturating_add(self.free);
        let since = now.ms().saturating_sub(self.last_used);
        let reset = WINDOW_MS.saturating_sub(since).max(0);
        Rate { limit, remaining: left.min(limit), reset_ms: u64::try_from(reset).unwrap_or(0) }
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
