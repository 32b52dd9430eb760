//! The book against a sum over all records, and what it must not forget.

use obleth_policy::{
    id::{GroupId, KeyId, TenantId},
    limit::{Limits, Turn},
    unit::MicroUsd,
};
use uuid::Uuid;

use super::*;
use crate::usage::golden;

const DAY_MS: i64 = 86_400_000;
/// Of the naive calendar.
const MONTH_MS: i64 = 30 * DAY_MS;
/// A day and a month begin.
const BEGUN: i64 = 600 * MONTH_MS;

/// Numbers without order, the same in every run (SplitMix64).
struct Lot(u64);

impl Lot {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (drawn ^ (drawn >> 31)) % below
    }
}

fn turn_of(now: i64, length: i64) -> Turn {
    let begins = now.div_euclid(length) * length;
    Turn { begins: UnixMs(begins), ends: UnixMs(begins + length), next_ends: UnixMs(begins + 2 * length) }
}

fn definition(scope: Scope, limits: Limits, now: i64) -> Definition {
    Definition { scope, limits, day: turn_of(now, DAY_MS), month: turn_of(now, MONTH_MS) }
}

fn key(n: u64) -> KeyId {
    KeyId(Uuid::from_u128(u128::from(n) + 1))
}

fn tenant(n: u64) -> TenantId {
    TenantId(Uuid::from_u128(u128::from(n) + 1001))
}

fn group(n: u64) -> GroupId {
    GroupId(Uuid::from_u128(u128::from(n) + 2001))
}

/// A record that has used something.
fn used(ts: i64, (k, t, g): (u64, u64, Option<u64>), tokens: u64, cost: Option<u64>) -> Record {
    let mut record = golden::at(UnixMs(BEGUN), 1).record;
    (record.ts, record.key, record.tenant, record.group) = (UnixMs(ts), key(k), tenant(t), g.map(group));
    record.usage_source = Some(obleth_ledger::UsageSource::Upstream);
    record.tokens = obleth_ledger::Tokens { input: tokens / 2, cached_input: 0, output: tokens - tokens / 2 };
    record.cost = cost.map(MicroUsd);
    record
}

fn place(number: usize) -> Position {
    Position { segment: 1, offset: number as u64 }
}

/// All budgets there are, with the same limit.
fn all(limit: u64) -> Limits {
    let budgets = Measure::ALL.into_iter().filter(|measure| measure.is_budget());
    budgets.fold(Limits::NONE, |limits, measure| limits.with(measure, Some(limit)))
}

/// The slow and obvious way: every record that was ever folded.
#[derive(Default)]
struct Naive {
    records: Vec<(i64, [Option<Scope>; 3], u64, u64)>,
}

impl Naive {
    fn add(&mut self, record: &Record) {
        let group = record.group.map(Scope::Group);
        let scopes = [Some(Scope::Key(record.key)), Some(Scope::Tenant(record.tenant)), group];
        let is_counted = record.usage_source.is_some();
        let tokens = if is_counted { record.tokens.input + record.tokens.output } else { 0 };
        let cost = if is_counted { record.cost.map_or(0, |cost| cost.0) } else { 0 };
        self.records.push((record.ts.0, scopes, tokens, cost));
    }

    /// Of the first so many records.
    fn sum(&self, meter: Meter, folded: usize, (from, to): (i64, i64)) -> u64 {
        let is_meant = |(ts, scopes, ..): &&(i64, [Option<Scope>; 3], u64, u64)| {
            (from..to).contains(ts) && scopes.contains(&Some(meter.scope))
        };
        let of = self.records[..folded].iter().filter(is_meant);
        let is_money = meter.measure.unit() == Unit::MicroUsd;
        of.map(|(_, _, tokens, cost)| if is_money { *cost } else { *tokens }).sum()
    }
}

/// A book in the course of time, with its store and its log.
struct World {
    lot: Lot,
    now: i64,
    book: Book,
    stored: Saved,
    log: Vec<Record>,
    naive: Naive,
    defined: HashMap<Scope, Limits>,
}

impl World {
    fn scope(&mut self) -> Scope {
        match self.lot.draw(3) {
            0 => Scope::Key(key(self.lot.draw(6))),
            1 => Scope::Tenant(tenant(self.lot.draw(4))),
            _ => Scope::Group(group(self.lot.draw(3))),
        }
    }

    fn record(&mut self) {
        let before = self.now;
        self.now += self.lot.draw(200_000).cast_signed();
        if before.div_euclid(DAY_MS) != self.now.div_euclid(DAY_MS) {
            self.redefine();
        }
        // Requests end in another order than they begin in, some hours later, and clocks run ahead.
        let late = [0, 0, 0, 60_000, 4 * 3_600_000][self.lot.draw(5) as usize];
        let ts = self.now + 3_000 - self.lot.draw(late + 6_000).cast_signed();
        let group = Some(self.lot.draw(3)).filter(|_| self.lot.draw(9) > 0);
        let who = (self.lot.draw(6), self.lot.draw(4), group);
        let cost = Some(self.lot.draw(5_000)).filter(|_| self.lot.draw(3) > 0);
        let mut record = used(ts, who, self.lot.draw(3_000), cost);
        if self.lot.draw(8) == 0 {
            record.usage_source = None;
        }
        self.naive.add(&record);
        self.log.push(record);
    }

    fn redefine(&mut self) {
        for (scope, limits) in &self.defined {
            self.book.define(&definition(*scope, *limits, self.now));
        }
    }

    /// Folds what is in the log, or a part of it.
    fn fold(&mut self) {
        let from = self.book.at().offset as usize;
        let more = self.lot.draw((self.log.len() - from) as u64 + 1) as usize;
        self.book.fold(&self.log[from..from + more], place(from + more));
    }

    /// Sets or takes away a budget; what it asks of the past is answered, as the usage ledger would.
    fn edit(&mut self) {
        let (scope, measure) = (self.scope(), Measure::ALL[self.lot.draw(8) as usize]);
        let limit = Some(self.lot.draw(1 << 20)).filter(|_| self.lot.draw(4) > 0);
        let limits = self.defined.get(&scope).copied().unwrap_or_default().with(measure, limit);
        self.defined.insert(scope, limits);
        self.book.define(&definition(scope, limits, self.now));
        self.answer();
    }

    fn answer(&mut self) {
        let folded = self.book.at().offset as usize;
        for gap in self.book.gaps() {
            let sum = self.naive.sum(gap.meter, folded, (gap.since.0, gap.ends.0));
            self.book.complete(gap, sum);
        }
        let newest = self.naive.records[..folded].iter().map(|record| record.0).max().unwrap_or(0);
        self.book.complete_time(UnixMs(newest));
    }

    fn save(&mut self) {
        let changes = self.book.changes();
        (self.stored.at, self.stored.newest) = (changes.at, changes.newest);
        let gone = |entry: &Entry| {
            let is = |(meter, since): &(Meter, UnixMs)| *meter == entry.meter && *since == entry.since;
            changes.gone.iter().any(is) || changes.entries.iter().any(|new| is(&(new.meter, new.since)))
        };
        self.stored.entries.retain(|entry| !gone(entry));
        self.stored.entries.extend(&changes.entries);
        self.book.note_saved(&changes);
        assert!(!self.book.is_altered());
    }

    /// The process dies and comes back; what was folded since the book was saved is in the log.
    fn restart(&mut self) {
        self.book = Book::restored(self.stored.clone());
        let limited = self.defined.iter().filter(|(_, limits)| !limits.is_none());
        let all: Vec<_> = limited.map(|(scope, limits)| definition(*scope, *limits, self.now)).collect();
        self.book.define_all(&all);
        assert!(!self.book.define_all(&all), "nothing differs any more");
        self.answer();
    }

    fn check(&mut self) {
        let to = self.log.len();
        self.book.fold(&self.log[self.book.at().offset as usize..], place(to));
        let entries: Vec<_> = self.book.entries().collect();
        for Entry { meter, since, total } in entries {
            let length = match meter.measure.period() {
                obleth_policy::limit::Period::Daily => DAY_MS,
                obleth_policy::limit::Period::Monthly => MONTH_MS,
                _ => i64::MAX - 1,
            };
            assert!(total.is_whole, "{meter:?} {since:?}");
            assert_eq!(total.spent, self.naive.sum(meter, to, (since.0, since.0 + length)), "{meter:?}");
        }
    }
}

#[test]
fn a_million_random_operations_come_to_what_a_sum_over_all_records_says() {
    let mut world = World {
        lot: Lot(42),
        now: BEGUN,
        book: Book::new(Position::default()),
        stored: Saved::default(),
        log: Vec::new(),
        naive: Naive::default(),
        defined: HashMap::default(),
    };
    for step in 0..1_000_000 {
        match world.lot.draw(8_000) {
            0 => world.edit(),
            1 => world.restart(),
            2..40 => world.save(),
            40..2_000 => world.fold(),
            _ => world.record(),
        }
        if step % 100_000 == 99_999 {
            world.check();
        }
    }
    assert!(world.now > BEGUN + 20 * MONTH_MS && world.book.entries().count() > 20);
}

#[test]
fn a_request_counts_for_its_key_its_tenant_and_its_group_in_every_period_that_it_began_in() {
    let mut book = Book::new(Position::default());
    let scopes = [Scope::Key(key(1)), Scope::Tenant(tenant(2)), Scope::Group(group(3))];
    for scope in scopes {
        book.define(&definition(scope, all(1_000), BEGUN));
    }
    let (last, next) = (BEGUN + DAY_MS - 1, BEGUN + DAY_MS);
    let who = (1, 2, Some(3));
    let records = [
        used(BEGUN, who, 10, Some(7)),
        used(last, who, 20, None),
        used(next, who, 40, Some(9)),
        used(BEGUN - 1, who, 80, None),
    ];
    assert!(book.fold(&records, place(4)));
    let spent = |scope, measure, since| book.total(Meter { scope, measure }, UnixMs(since)).unwrap().spent;
    for scope in scopes {
        assert_eq!(spent(scope, Measure::DailyTokens, BEGUN), 30, "half-open");
        assert_eq!(spent(scope, Measure::DailyTokens, next), 40, "the next day is kept already");
        assert_eq!(spent(scope, Measure::DailyMicroUsd, BEGUN), 7, "a cost of null counts nothing");
        assert_eq!(spent(scope, Measure::MonthlyTokens, BEGUN), 70);
        assert_eq!(spent(scope, Measure::LifetimeTokens, 0), 150);
        assert_eq!(spent(scope, Measure::LifetimeMicroUsd, 0), 16);
    }
    assert!(!book.fold(&[used(BEGUN, (9, 9, None), 10, None)], place(5)), "nobody's budget");
}

#[test]
fn a_total_that_the_ledger_completes_is_never_lowered() {
    let mut book = Book::new(Position::default());
    let meter = Meter { scope: Scope::Key(key(1)), measure: Measure::LifetimeTokens };
    book.define(&definition(meter.scope, Limits::NONE.with(meter.measure, Some(1_000)), BEGUN));
    book.fold(&[used(BEGUN, (1, 1, None), 100, None)], place(1));
    let gaps = book.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!(book.complete(gaps[0], 40), Some(0));
    assert_eq!(book.total(meter, UnixMs(0)), Some(Total { spent: 100, is_whole: true, ..Total::default() }));
    book.doubt();
    assert_eq!(book.complete(book.gaps()[0], 250), Some(150));
    assert_eq!(book.total(meter, UnixMs(0)).unwrap().spent, 250);
    assert_eq!(book.spent(), [Spent { meter, since: UnixMs(0), amount: 250 }]);
}

#[test]
fn each_threshold_is_crossed_once_in_a_period_also_over_restarts_and_new_limits() {
    let scope = Scope::Tenant(tenant(1));
    let meter = Meter { scope, measure: Measure::DailyTokens };
    let limits = |limit| Limits::NONE.with(meter.measure, Some(limit));
    let mut book = Book::new(Position::default());
    book.define(&definition(scope, limits(100), BEGUN));
    let mut at = 0;
    let mut spend = |book: &mut Book, ts: i64, tokens: u64| -> Vec<u8> {
        at += 1;
        book.fold(&[used(ts, (1, 1, None), tokens, None)], place(at));
        book.take_alerts().iter().map(threshold).collect()
    };
    assert_eq!(spend(&mut book, BEGUN, 79), [0; 0]);
    assert_eq!(spend(&mut book, BEGUN, 1), [80]);
    assert_eq!(spend(&mut book, BEGUN, 19), [0; 0]);

    let changes = book.changes();
    let saved = Saved { at: changes.at, newest: changes.newest, entries: changes.entries };
    let mut book = Book::restored(saved);
    book.define(&definition(scope, limits(100), BEGUN));
    assert_eq!(spend(&mut book, BEGUN, 0), [0; 0]);
    assert_eq!(spend(&mut book, BEGUN, 1), [100]);
    book.define(&definition(scope, limits(1_000), BEGUN));
    assert_eq!(spend(&mut book, BEGUN, 900), [0; 0], "once per period");
    assert_eq!(spend(&mut book, BEGUN + DAY_MS, 1_000), [80, 100], "the next period is another");

    // Lowered below what is spent.
    let mut book = Book::new(Position::default());
    book.define(&definition(scope, limits(1_000), BEGUN));
    book.fold(&[used(BEGUN, (1, 1, None), 500, None)], place(1));
    let changes = book.changes();
    book.note_saved(&changes);
    book.define(&definition(scope, limits(500), BEGUN));
    assert_eq!(book.take_alerts().iter().map(threshold).collect::<Vec<_>>(), [80, 100]);
    assert_eq!(book.changes().entries.iter().map(|entry| entry.total.told).max(), Some(100), "to be saved");
}

/// Of an alert that is no refusal.
fn threshold(alert: &Alert) -> u8 {
    match alert.cause {
        Cause::Threshold(threshold) => threshold,
        Cause::Refusal => panic!("{alert:?}"),
    }
}

#[test]
fn a_refusal_is_told_once_in_its_period_with_what_is_spent_and_takes_no_threshold_away() {
    let meter = Meter { scope: Scope::Key(key(1)), measure: Measure::DailyTokens };
    let defined = definition(meter.scope, Limits::NONE.with(meter.measure, Some(100)), BEGUN);
    let mut book = Book::new(Position::default());
    book.define(&defined);
    book.fold(&[used(BEGUN, (1, 1, None), 12, None)], place(1));
    book.note_refusal(meter, UnixMs(BEGUN));
    book.note_refusal(meter, UnixMs(BEGUN));
    let told: Vec<_> = book.take_alerts().iter().map(|of| (of.cause, of.spent, of.limit)).collect();
    assert_eq!(told, [(Cause::Refusal, 12, 100)], "what is left may be reserved, or be too little for it");

    let changes = book.changes();
    let mut book = Book::restored(Saved { at: changes.at, newest: changes.newest, entries: changes.entries });
    book.define(&defined);
    book.note_refusal(meter, UnixMs(BEGUN));
    assert_eq!(book.take_alerts(), [], "also over restarts");
    book.fold(&[used(BEGUN, (1, 1, None), 88, None)], place(2));
    assert_eq!(book.take_alerts().iter().map(threshold).collect::<Vec<_>>(), [80, 100]);
    book.note_refusal(meter, UnixMs(BEGUN + DAY_MS));
    let told: Vec<_> = book.take_alerts().iter().map(|of| (of.cause, of.since)).collect();
    assert_eq!(told, [(Cause::Refusal, UnixMs(BEGUN + DAY_MS))], "the next period is another");
}

#[test]
fn a_budget_of_nothing_crosses_nothing() {
    let meter = Meter { scope: Scope::Key(key(1)), measure: Measure::DailyTokens };
    let mut book = Book::new(Position::default());
    book.define(&definition(meter.scope, Limits::NONE.with(meter.measure, Some(0)), BEGUN));
    book.note_refusal(meter, UnixMs(BEGUN));
    book.fold(&[used(BEGUN, (1, 1, None), 5, None)], place(1));
    assert_eq!(book.take_alerts(), []);
}
