//! The coordinator's thread: reads every ring, decides, and fills the rings down, as its driver does.

use obleth_policy::{
    coordinator::Coordinator,
    protocol::{Down, TicketId, Up},
    unit::Instant,
};

use super::{Event, LIMITS, World, pool_ix};
use crate::{fault::Fault, judge::Kind, plan::SECOND};

/// After how many grant delays a coordinator that sleeps too long wakes.
const OVERSLEPT: u64 = 100;

impl World {
    pub(super) fn wake_desk(&mut self) {
        let Some(mut coordinator) = self.coordinator.take() else { return };
        if self.fault == Some(Fault::Oversleep) && self.desk_wakes_ns > self.now.0 {
            self.coordinator = Some(coordinator);
            return;
        }
        self.read(&mut coordinator);
        for (shard, down) in &self.pending {
            self.judge.answered(*shard, down);
        }
        let before = coordinator.live(self.now);
        self.judge.standing(&before, self.now.0);
        let told = self.pending.len();
        coordinator.decide(self.now, &mut self.pending);
        self.misdirect(told);
        let decided = self.pending.get(told..).unwrap_or_default();
        if !decided.is_empty() {
            self.judge.decided(&before, decided, (&self.names, &self.requests));
            self.judge.standing(&coordinator.live(self.now), self.now.0);
        }
        self.write(&coordinator);
        if self.fault == Some(Fault::Oversleep) {
            self.desk_wakes_ns = self.now.0 + self.plan.delay_ns * OVERSLEPT;
            self.plan_at(self.desk_wakes_ns, Event::Desk);
        } else if let Some(Instant(at_ns)) = coordinator.wakes_at()
            && at_ns != self.desk_wakes_ns
        {
            self.desk_wakes_ns = at_ns;
            self.plan_at(at_ns.max(self.now.0 + 1), Event::Desk);
        }
        self.coordinator = Some(coordinator);
    }

    fn read(&mut self, coordinator: &mut Coordinator) {
        for shard in 0..self.cores.len() {
            while let Some(letter) = self.cores[shard].up.pop(self.now.0) {
                if self.cores[shard].unsaid {
                    self.plan_at(self.now.0, Event::Core(shard));
                }
                let is_hello = matches!(letter.sent, Up::Hello(_));
                if is_hello || coordinator.life(shard) == Some(letter.life) {
                    self.judge.heard(shard, &letter.sent, (&self.names, &self.requests), self.now.0);
                }
                if let Some(up) = letter.comes {
                    coordinator.take(self.now, (shard, letter.life), up, &mut self.pending);
                }
            }
        }
    }

    /// Puts into the rings what they take. What is for a shard without a life is void.
    pub(super) fn write(&mut self, coordinator: &Coordinator) {
        let mut full = vec![false; self.cores.len()];
        for shard in 0..self.cores.len() {
            if self.resync[shard] && !self.cores[shard].down.is_full() {
                self.put_down(shard, 0, Down::Resync);
                self.resync[shard] = false;
            }
        }
        for (shard, down) in std::mem::take(&mut self.pending) {
            let Some(life) = coordinator.life(shard) else { continue };
            full[shard] |= self.cores[shard].down.is_full();
            if full[shard] {
                self.pending.push((shard, down));
                self.judge.disturbed(self.now.0);
            } else {
                self.put_down(shard, life, down);
            }
        }
    }

    fn put_down(&mut self, shard: usize, life: u32, down: Down) {
        let lost = matches!(down, Down::Grant { .. }) && self.breaks(Fault::LoseGrant);
        let words = (down, Some(down).filter(|_| !lost));
        let arrives_ns = self.cores[shard].down.push(self.now.0, &mut self.random, life, words);
        self.plan_at(arrives_ns, Event::Core(shard));
    }

    /// Gives the first of these grants to somebody else who waits on the same shard.
    fn misdirect(&mut self, told: usize) {
        // Not at the very beginning, when the judge is lenient about what was just configured.
        if self.fault != Some(Fault::WrongLeaf) || self.now.0 < 3 * SECOND {
            return;
        }
        for at in told..self.pending.len() {
            let (shard, Down::Grant { ticket, predicted_ms, standing }) = self.pending[at] else { continue };
            let tenant_of = |id: TicketId| {
                self.names.get(&(shard, id.place, id.turn)).map(|at| self.requests[*at].tenant)
            };
            let other =
                self.judge.waiting().find(|(on, id)| *on == shard && tenant_of(*id) != tenant_of(ticket));
            let Some((_, other)) = other else { continue };
            if self.breaks(Fault::WrongLeaf) {
                self.pending[at] = (shard, Down::Grant { ticket: other, predicted_ms, standing });
            }
        }
    }

    /// Whether every credit is where it should be; looked at when no shard has something unsaid.
    pub(super) fn weigh_credits(&mut self) {
        let Some(coordinator) = &self.coordinator else { return };
        let settled = self.cores.iter().enumerate().all(|(shard, core)| {
            core.admission.as_ref().is_some_and(|admission| {
                !admission.is_urgent() && !core.unsaid && coordinator.life(shard) == Some(admission.life())
            })
        });
        let quiet = |up: &Up| !matches!(up, Up::Hello(_) | Up::Told | Up::Pool(..));
        if !settled || self.cores.iter().any(|core| !core.up.letters().all(|letter| quiet(&letter.sent))) {
            return;
        }
        for pool in 0..self.plan.pools.len() {
            let ix = pool_ix(pool);
            let is_of_pool = |shard, id: &TicketId| {
                let at = self.names.get(&(shard, id.place, id.turn));
                at.is_some_and(|at| self.requests[*at].pool == pool)
            };
            let brings = |shard, down: &Down| match down {
                Down::Grant { ticket, .. } => u32::from(is_of_pool(shard, ticket)),
                Down::Stock(of, credits) if *of == ix => *credits,
                _ => 0,
            };
            let mut there = 0;
            for (shard, core) in self.cores.iter().enumerate() {
                let Some(admission) = &core.admission else { return };
                let under_way = core.down.letters().filter(|letter| letter.life == admission.life());
                there +=
                    admission.held(ix) + under_way.map(|letter| brings(shard, &letter.sent)).sum::<u32>();
                let pending = self.pending.iter().filter(|(to, _)| *to == shard);
                there += pending.map(|(_, down)| brings(shard, down)).sum::<u32>();
            }
            let held = coordinator.live(self.now).get(pool).map_or(0, |pool| pool.held);
            if held != there {
                let says = format!("pool {pool}: the coordinator has {held} out, the shards have {there}");
                self.judge.found(Kind::Credits, says);
            }
        }
    }

    /// The coordinator's thread begins anew.
    pub(super) fn reopen(&mut self) {
        self.coordinator = Some(Coordinator::new(self.cores.len(), LIMITS));
        self.pending.clear();
        self.resync.fill(true);
        self.judge.forgot(self.now.0);
        self.desk_wakes_ns = 0;
        self.configure();
        for shard in 0..self.cores.len() {
            if self.cores[shard].admission.is_none() {
                self.bury(shard);
            }
        }
        self.plan_at(self.now.0, Event::Desk);
    }
}
