//! Shards, an owner, and the links between them. Words wait in their links until somebody carries them.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::{
    id::{GroupId, KeyId, TenantId},
    limit::{
        Definition, Down, Lacking, LimitBook, Limits, Measure, Now, Outbox, Owner, Purses, Reserved, Scope,
        Scopes, Shortage, Turn, Up, Want,
    },
    unit::{Instant, UnixMs},
};

pub(super) const KEY: Scope = Scope::Key(KeyId(Uuid::from_u128(1)));
pub(super) const TENANT: Scope = Scope::Tenant(TenantId(Uuid::from_u128(2)));
pub(super) const GROUP: Scope = Scope::Group(GroupId(Uuid::from_u128(3)));

/// A day that begins at the epoch and is short enough to end in a test.
pub(super) const DAY_MS: i64 = 3_600_000;

pub(super) fn definition(scope: Scope, limits: Limits) -> Definition {
    let day = Turn { begins: UnixMs(0), ends: UnixMs(DAY_MS), next_ends: UnixMs(2 * DAY_MS) };
    Definition { scope, limits, day, month: day }
}

/// One of this measure, and nothing of any other.
pub(super) fn one(measure: Measure) -> impl Fn(Measure) -> Option<Want> {
    some(measure, 1)
}

/// So much of this measure, and nothing of any other.
pub(super) fn some(measure: Measure, amount: u64) -> impl Fn(Measure) -> Option<Want> {
    move |of| (of == measure).then_some(Want::just(amount))
}

/// One limit of one scope.
pub(super) fn only(scope: Scope, measure: Measure, limit: u64) -> Vec<(Scope, Limits)> {
    vec![(scope, Limits::NONE.with(measure, Some(limit)))]
}

pub(super) struct World {
    pub(super) owner: Owner,
    pub(super) purses: Vec<Purses>,
    pub(super) up: Vec<VecDeque<(u32, Up)>>,
    pub(super) down: Vec<VecDeque<(u32, Down)>>,
    pub(super) limits: Vec<(Scope, Limits)>,
    pub(super) now_ms: u64,
    pub(super) exhausted: usize,
    lives: u32,
}

impl World {
    pub(super) fn new(shards: usize, limits: &[(Scope, Limits)]) -> Self {
        let mut world = Self {
            owner: Owner::new(shards),
            purses: (0..shards).map(|life| Purses::new(u32::try_from(life).unwrap() + 1)).collect(),
            up: vec![VecDeque::new(); shards],
            down: vec![VecDeque::new(); shards],
            limits: limits.to_vec(),
            now_ms: 0,
            exhausted: 0,
            lives: 1000,
        };
        world.configure();
        world
    }

    pub(super) fn configure(&mut self) {
        let definitions = self.limits.iter().map(|(scope, limits)| definition(*scope, *limits)).collect();
        let book = LimitBook { definitions, spent: Vec::new() };
        let mut out = Outbox::default();
        self.owner.configure(self.now(), &book, &mut out);
        self.send(out);
    }

    pub(super) fn now(&self) -> Now {
        let wall = UnixMs(i64::try_from(self.now_ms).unwrap());
        Now { monotonic: Instant(self.now_ms * 1_000_000), wall }
    }

    pub(super) fn send(&mut self, out: Outbox) {
        self.exhausted += out.exhausted.len();
        for (shard, down) in out.words {
            let Some(life) = self.owner.life(shard) else { continue };
            self.down[shard].push_back((life, down));
        }
    }

    /// One word of this shard's reaches the owner.
    pub(super) fn carry_up(&mut self, shard: usize) -> bool {
        let Some((life, up)) = self.up[shard].pop_front() else { return false };
        let mut out = Outbox::default();
        self.owner.take(self.now(), (shard, life), up, &mut out);
        self.send(out);
        true
    }

    /// One word of the owner's reaches this shard.
    pub(super) fn carry_down(&mut self, shard: usize) -> bool {
        let Some((life, down)) = self.down[shard].pop_front() else { return false };
        let now = self.now();
        self.purses[shard].obey(now, life, down);
        true
    }

    /// What the shard has to say goes into its link.
    pub(super) fn say(&mut self, shard: usize) {
        let (now, life) = (self.now(), self.purses[shard].life());
        let link = &mut self.up[shard];
        self.purses[shard].say(now, |up| {
            link.push_back((life, up));
            Ok(())
        });
    }

    /// Everything is said and heard, until nobody has anything to say. Granted credits are old enough to go home.
    pub(super) fn settle_down(&mut self) {
        for _ in 0..4 {
            self.now_ms += 6;
            loop {
                let mut moved = false;
                for shard in 0..self.purses.len() {
                    self.say(shard);
                    while self.carry_up(shard) {
                        moved = true;
                    }
                    while self.carry_down(shard) {
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            let mut out = Outbox::default();
            self.owner.decide(self.now(), &mut out);
            self.send(out);
        }
    }

    /// A request that has just come.
    pub(super) fn reserve(
        &mut self,
        shard: usize,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Result<Reserved, Lacking> {
        self.reserve_if(shard, false, want)
    }

    /// A request that has waited for an answer.
    pub(super) fn reserve_at_last(
        &mut self,
        shard: usize,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Result<Reserved, Lacking> {
        self.reserve_if(shard, true, want)
    }

    fn reserve_if(
        &mut self,
        shard: usize,
        waited: bool,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Result<Reserved, Lacking> {
        let (now, limits) = (self.now(), self.limits.clone());
        let scopes: Scopes<'_> = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
        let need = |measure| want(measure).map(|want| want.need);
        let least = |measure| want(measure).map_or(0, |want| want.least);
        self.purses[shard].reserve(now, &scopes, waited, (need, least))
    }

    /// Asks until there is an answer, with every word carried at once.
    pub(super) fn ask(
        &mut self,
        shard: usize,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Result<Reserved, Shortage> {
        let mut waited = false;
        loop {
            let lacking = match self.reserve_if(shard, std::mem::replace(&mut waited, true), &want) {
                Ok(reserved) => return Ok(reserved),
                Err(lacking) => lacking,
            };
            self.settle_down_to_answer(shard, &lacking);
            if let Some(shortage) = self.purses[shard].shortage(&lacking, &want) {
                return Err(shortage);
            }
        }
    }

    /// What this shard knows is left of the budgets that a request wants something of.
    pub(super) fn left(
        &self,
        shard: usize,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Option<Vec<(Measure, u64)>> {
        let scopes: Scopes<'_> = self.limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
        Some(self.purses[shard].left(self.now(), &scopes, want)?.to_vec())
    }

    /// Every word is carried until the shard has its answer. Time passes only while nobody has anything to say.
    pub(super) fn settle_down_to_answer(&mut self, shard: usize, lacking: &Lacking) {
        while !self.purses[shard].has_answer(lacking) {
            if !self.carry_all() {
                self.now_ms += 1;
                let mut out = Outbox::default();
                self.owner.decide(self.now(), &mut out);
                self.send(out);
            }
        }
    }

    /// Everything that there is to say is said and heard once. False if there is nothing.
    pub(super) fn carry_all(&mut self) -> bool {
        let mut moved = false;
        for shard in 0..self.purses.len() {
            self.say(shard);
            while self.carry_up(shard) {
                moved = true;
            }
        }
        for shard in 0..self.purses.len() {
            while self.carry_down(shard) {
                moved = true;
            }
        }
        moved
    }

    pub(super) fn settle(&mut self, shard: usize, reserved: Reserved, came_to: impl Fn(Measure) -> u64) {
        let now = self.now();
        self.purses[shard].settle(now, reserved, came_to);
    }

    /// The shard dies and comes back with nothing.
    pub(super) fn kill(&mut self, shard: usize) {
        let mut out = Outbox::default();
        self.owner.bury(self.now(), shard, &mut out);
        self.send(out);
        self.lives += 1;
        self.purses[shard] = Purses::new(self.lives);
    }

    /// The owner dies, and another one begins with what the ledger says.
    pub(super) fn replace_owner(&mut self, book: &LimitBook) {
        self.owner = Owner::new(self.purses.len());
        for shard in 0..self.purses.len() {
            self.lives += 1;
            self.down[shard].clear();
            self.purses[shard].hello(self.lives);
        }
        let mut out = Outbox::default();
        self.owner.configure(self.now(), book, &mut out);
        self.send(out);
    }

    pub(super) fn used(&mut self, scope: Scope, measure: Measure) -> u64 {
        let now = self.now();
        let standings = self.owner.standings(now);
        standings.iter().find(|s| s.meter.scope == scope && s.meter.measure == measure).map_or(0, |s| s.used)
    }
}
