//! One meter's books: what was used, what is lent to whom, and who waits for an answer.

use std::{collections::VecDeque, time::Duration};

use super::{Now, Outbox};
use crate::{
    limit::{Down, Meter, Period, Stamp, Standing, Turn, minute::Minute},
    unit::{Instant, UnixMs},
};

/// How long free credits of other shards are waited for before an answer is given without them.
const RECALL_PATIENCE: Duration = Duration::from_millis(100);
/// Of what is free, a shard is lent one part in so many per shard beyond what it asked for.
const SLICES: u64 = 4;
/// Less than this part of a limit left is little: credits are lent for single requests, and what falls free goes home.
const SCARCE: u64 = 16;

/// What is left of a rate is told in steps of one part in so many of its limit.
const TOLD_STEPS: u64 = 128;

/// A request of a shard that waits for credits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) shard: usize,
    pub(super) need: u64,
    pub(super) least: u64,
    pub(super) has: u64,
    /// What others have free has been called home for it.
    pub(super) has_called: bool,
}

impl Ask {
    fn lacks(&self) -> u64 {
        self.need.saturating_sub(self.has)
    }

    fn lacks_at_least(&self) -> u64 {
        self.least.saturating_sub(self.has)
    }
}

/// What credits of a shard became.
#[derive(Clone, Copy, Debug)]
pub(super) struct CameTo {
    pub(super) shard: usize,
    pub(super) at: Stamp,
    pub(super) amount: i64,
    pub(super) overdraft: u64,
    pub(super) reserved: u64,
}

/// Credits of a shard that go home.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub(super) shard: usize,
    pub(super) at: Stamp,
    pub(super) amount: u64,
    pub(super) reserved: u64,
    pub(super) recalled: bool,
}

/// What was used: of the last minute, or in the period.
#[derive(Debug)]
enum Used {
    Minute(Minute),
    Total(u64),
}

/// How one shard stands with this meter.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Credits that it has, free or reserved.
    lent: u64,
    /// What its requests have reserved, as it last said.
    reserved: u64,
    /// It was asked for them and has not answered.
    recalled: bool,
    /// What it was last told that others may still use; `None` if it has never asked.
    told: Option<i64>,
}

impl Line {
    /// Whether it has more than its requests have reserved, as far as it has said.
    const fn may_have_free(&self) -> bool {
        self.lent > self.reserved
    }
}

/// See the module's text. Owned by the owner.
#[derive(Debug)]
pub(super) struct Account {
    meter: Meter,
    limit: u64,
    turn: Turn,
    used: Used,
    lines: Box<[Line]>,
    asks: VecDeque<Ask>,
    recall_ends: Option<Instant>,
    has_refused: bool,
    version: u64,
}

impl Account {
    pub(super) fn new(meter: Meter, limit: u64, turn: Turn, shards: usize) -> Self {
        let used = match meter.measure.period() {
            Period::Minute => Used::Minute(Minute::default()),
            _ => Used::Total(0),
        };
        let lines = vec![Line::default(); shards].into();
        let (asks, recall_ends) = (VecDeque::new(), None);
        Self { meter, limit, turn, used, lines, asks, recall_ends, has_refused: false, version: 0 }
    }

    /// Begins the next period when its time has come. A clock that goes back never begins an earlier one. The one after
    /// the next lasts until somebody says when it ends.
    pub(super) fn roll(&mut self, now: Now) {
        while now.wall >= self.turn.ends {
            let Turn { ends: begins, next_ends, .. } = self.turn;
            let ends = if next_ends > begins { next_ends } else { UnixMs(i64::MAX) };
            self.begin(Turn { begins, ends, next_ends });
        }
    }

    fn begin(&mut self, turn: Turn) {
        self.turn = turn;
        self.used = Used::Total(0);
        // What was lent was of the period before.
        for line in &mut self.lines {
            (line.lent, line.reserved) = (0, 0);
        }
        self.has_refused = false;
        self.version += 1;
    }

    /// What the usage ledger says of the period under way, before anybody asked.
    pub(super) fn begin_with(&mut self, since: UnixMs, amount: u64) {
        if let (Used::Total(used), true) = (&mut self.used, self.turn.begins == since) {
            *used = amount;
            self.version += 1;
        }
    }

    pub(super) fn correct(&mut self, since: UnixMs, by: i64) {
        if let (Used::Total(used), true) = (&mut self.used, self.turn.begins == since) {
            *used = used.saturating_add_signed(by);
            self.version += 1;
        }
    }

    pub(super) fn redefine(&mut self, now: Now, limit: u64, turn: Turn, out: &mut Outbox) {
        self.roll(now);
        let is_other = turn.begins != self.turn.begins && now.wall >= turn.begins && now.wall < turn.ends;
        if is_other {
            self.turn_aside(turn);
        } else if turn.begins == self.turn.begins {
            self.turn = turn;
        }
        let was = std::mem::replace(&mut self.limit, limit);
        self.version += 1;
        for (shard, line) in self.lines.iter().enumerate() {
            // What shards hold may be more than is allowed now, or of a period that is none any more.
            if is_other || limit < was && line.may_have_free() {
                out.words.push((shard, Down::Recall(self.meter)));
            }
        }
        if limit != was {
            self.tell_all(now, out);
        }
    }

    /// Periods lie otherwise from now on. What was used stays used until the usage ledger says how much of it is of the new
    /// one, and what was lent counts as used.
    fn turn_aside(&mut self, turn: Turn) {
        let lent: u64 = self.lines.iter().map(|line| line.lent).sum();
        let used = if let Used::Total(used) = self.used { used } else { 0 };
        self.begin(turn);
        self.used = Used::Total(used.saturating_add(lent));
    }

    fn tell_all(&mut self, now: Now, out: &mut Outbox) {
        for shard in 0..self.lines.len() {
            if self.lines.get(shard).is_some_and(|line| line.told.is_some()) {
                let left = self.tell(now, shard);
                out.words.push((shard, Down::Left(self.meter, left)));
            }
        }
    }

    /// There is no such limit any more. The books stay as long as what is in them counts, for it may come back.
    pub(super) fn close(&mut self, out: &mut Outbox) {
        self.recall_ends = None;
        let asks = self.asks.drain(..);
        out.words.extend(asks.map(|ask| (ask.shard, Down::Unlimited(self.meter))));
    }

    pub(super) fn ask(&mut self, now: Now, ask: Ask, out: &mut Outbox) {
        self.asks.push_back(ask);
        if self.recall_ends.is_none() {
            self.answer(now, out);
        }
    }

    /// Answers those who wait, in their order, until one has to wait for what others have free.
    fn answer(&mut self, now: Now, out: &mut Outbox) {
        while let Some(ask) = self.asks.front().copied() {
            let calls = self.free(now) < signed(ask.lacks()) && !ask.has_called;
            if calls && self.recall(now, ask.shard, out) {
                if let Some(ask) = self.asks.front_mut() {
                    ask.has_called = true;
                }
                return;
            }
            self.asks.pop_front();
            let down = self.settle_ask(now, ask, out);
            out.words.push((ask.shard, down));
        }
    }

    /// Calls home what other shards may have free. False if there is nobody to ask.
    fn recall(&mut self, now: Now, asker: usize, out: &mut Outbox) -> bool {
        let mut has_asked = false;
        for (shard, line) in self.lines.iter_mut().enumerate() {
            if shard != asker && line.may_have_free() {
                line.recalled = true;
                has_asked = true;
                out.words.push((shard, Down::Recall(self.meter)));
            }
        }
        if has_asked {
            self.recall_ends = Some(now.monotonic.plus(RECALL_PATIENCE));
        }
        has_asked
    }

    fn settle_ask(&mut self, now: Now, ask: Ask, out: &mut Outbox) -> Down {
        let free = self.free(now);
        let give = if free >= signed(ask.lacks()) || self.is_untouched(now, ask) {
            ask.lacks()
        } else if free >= signed(ask.lacks_at_least()) {
            free.unsigned_abs()
        } else {
            if self.meter.measure.is_budget() && !std::mem::replace(&mut self.has_refused, true) {
                out.exhausted.push((self.meter, self.turn.begins));
            }
            return self.refuse(now, ask);
        };
        let rest = u64::try_from(free.saturating_sub(signed(give))).unwrap_or(0);
        let scarce = rest < self.limit / SCARCE || rest == 0;
        let shards = u64::try_from(self.lines.len()).unwrap_or(1).max(1);
        let amount = if scarce { give } else { give.saturating_add(rest / (SLICES * shards)) };
        if let Some(line) = self.lines.get_mut(ask.shard) {
            line.lent = line.lent.saturating_add(amount);
        }
        self.version += 1;
        let (left, partial) = (self.tell(now, ask.shard), give < ask.lacks());
        let (meter, since, ends) = (self.meter, self.stamp(), self.turn.ends);
        Down::Grant { meter, amount, since, ends, left, scarce, partial }
    }

    /// A request larger than a whole minute may have one that nobody has used anything of.
    fn is_untouched(&mut self, now: Now, ask: Ask) -> bool {
        let lent: u64 = self.lines.iter().map(|line| line.lent).sum();
        let is_rate = matches!(self.used, Used::Minute(_));
        is_rate && self.limit > 0 && ask.need > self.limit && lent == ask.has && self.used(now) == 0
    }

    fn refuse(&mut self, now: Now, ask: Ask) -> Down {
        self.tell(now, ask.shard);
        let left = self.free(now).saturating_add(signed(ask.has));
        let again_ms = match &self.used {
            Used::Minute(minute) => minute.room_in(now.ms(), ask.least, self.limit).max(1),
            Used::Total(_) => {
                let rest = self.turn.ends.0.saturating_sub(now.wall.0).max(1);
                u64::try_from(rest).unwrap_or(u64::MAX)
            }
        };
        Down::Short { meter: self.meter, least: ask.least, left, again_ms, ends: self.turn.ends }
    }

    pub(super) fn note_used(&mut self, now: Now, came: CameTo, out: &mut Outbox) {
        self.roll(now);
        let CameTo { shard, at, amount, overdraft, reserved } = came;
        if matches!(self.used, Used::Total(_)) && at != self.stamp() {
            // Of a period that is over.
            return;
        }
        self.version += 1;
        if let Some(line) = self.lines.get_mut(shard) {
            let lent = line.lent.saturating_add(overdraft);
            line.lent = u64::try_from(signed(lent).saturating_sub(amount)).unwrap_or(0);
            line.reserved = reserved;
        }
        match &mut self.used {
            Used::Minute(minute) => minute.add(at.0.min(now.ms()), amount),
            Used::Total(used) => *used = used.saturating_add_signed(amount),
        }
        self.tell_others(now, shard, out);
    }

    /// Clients of other shards are told what is left of a rate, once it has changed enough to be worth it.
    fn tell_others(&mut self, now: Now, shard: usize, out: &mut Outbox) {
        if matches!(self.used, Used::Total(_)) {
            return;
        }
        let step = (self.limit / TOLD_STEPS).max(1);
        for other in (0..self.lines.len()).filter(|other| *other != shard) {
            let Some(told) = self.lines.get(other).and_then(|line| line.told) else { continue };
            if self.left_beside(now, other).abs_diff(told) >= step {
                let left = self.tell(now, other);
                out.words.push((other, Down::Left(self.meter, left)));
            }
        }
    }

    /// What is left beside what this shard has, which it is about to be told.
    fn tell(&mut self, now: Now, shard: usize) -> i64 {
        let left = self.left_beside(now, shard);
        if let Some(line) = self.lines.get_mut(shard) {
            line.told = Some(left);
        }
        left
    }

    pub(super) fn note_return(&mut self, now: Now, home: Home, out: &mut Outbox) {
        self.roll(now);
        let Home { shard, at, amount, reserved, recalled } = home;
        self.version += 1;
        let is_current = at == self.stamp();
        if let Some(line) = self.lines.get_mut(shard) {
            if is_current {
                line.lent = line.lent.saturating_sub(amount);
                line.reserved = reserved;
            }
            if recalled {
                line.recalled = false;
            }
        }
        // What it had when it asked it may have no more.
        for ask in self.asks.iter_mut().filter(|ask| ask.shard == shard) {
            ask.has = ask.has.saturating_sub(amount);
        }
        self.end_recall(now, out);
    }

    /// Goes on with those who wait once everybody has answered.
    fn end_recall(&mut self, now: Now, out: &mut Outbox) {
        if self.recall_ends.is_some() && !self.lines.iter().any(|line| line.recalled) {
            self.recall_ends = None;
            self.answer(now, out);
        }
    }

    pub(super) fn give_up_recall(&mut self, now: Now, out: &mut Outbox) {
        if self.recall_ends.is_some_and(|ends| ends <= now.monotonic) {
            self.lines.iter_mut().for_each(|line| line.recalled = false);
            self.end_recall(now, out);
        }
    }

    pub(super) const fn recall_ends(&self) -> Option<Instant> {
        self.recall_ends
    }

    pub(super) fn bury(&mut self, now: Now, shard: usize, out: &mut Outbox) {
        self.asks.retain(|ask| ask.shard != shard);
        let Some(line) = self.lines.get_mut(shard).map(std::mem::take) else { return };
        if line.lent > 0 {
            self.version += 1;
            match &mut self.used {
                Used::Minute(minute) => minute.add(now.ms(), signed(line.lent)),
                Used::Total(used) => *used = used.saturating_add(line.lent),
            }
        }
        self.end_recall(now, out);
    }

    pub(super) fn standing(&mut self, now: Now, meter: Meter) -> Standing {
        self.roll(now);
        let used = self.used(now);
        let reserved = self.lines.iter().map(|line| line.reserved).sum();
        let (since, ends) = (self.turn.begins, self.turn.ends);
        Standing { meter, since, ends, limit: self.limit, used, reserved, version: self.version }
    }

    /// Whether nothing is used, lent or asked for.
    pub(super) fn is_idle(&mut self, now: Now) -> bool {
        self.roll(now);
        self.asks.is_empty() && self.used(now) == 0 && self.lines.iter().all(|line| line.lent == 0)
    }

    fn used(&mut self, now: Now) -> u64 {
        match &mut self.used {
            Used::Minute(minute) => minute.used(now.ms(), self.limit),
            Used::Total(used) => *used,
        }
    }

    /// What is neither used nor lent; below zero where there is a debt.
    fn free(&mut self, now: Now) -> i64 {
        let used = self.used(now);
        let taken = self.lines.iter().fold(used, |sum, line| sum.saturating_add(line.lent));
        signed(self.limit).saturating_sub(signed(taken))
    }

    /// What is left of the limit beside what this shard has.
    fn left_beside(&mut self, now: Now, shard: usize) -> i64 {
        let own = self.lines.get(shard).map_or(0, |line| line.lent);
        signed(self.limit).saturating_sub(signed(self.used(now))).saturating_sub(signed(own))
    }

    const fn stamp(&self) -> Stamp {
        match self.used {
            Used::Minute(_) => Stamp(0),
            Used::Total(_) => Stamp(self.turn.begins.0),
        }
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
