//! A shard's words with the owner: what it hears, and what it says.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    IDLE, Purses, UNLIMITED, wallet,
    wallet::{FRESH, Purse, Short},
};
use crate::limit::{Down, Meter, Stamp, Up, owner::Now};

impl Purses {
    /// What the owner says. True if requests may wait for it.
    pub fn obey(&mut self, now: Now, life: u32, down: Down) -> bool {
        if life != self.life {
            return false;
        }
        match down {
            Down::Resync => {}
            Down::Left(meter, left) => {
                let place = self.places.get(&meter.scope);
                if let Some(wallet) = place.and_then(|place| wallet(&mut self.wallets, *place)) {
                    wallet.purse(meter.measure).hear_left(now, left);
                }
            }
            Down::Recall(meter) => self.recalled(now, meter),
            Down::Unlimited(meter) => {
                let until = now.monotonic.plus(UNLIMITED);
                self.answered(now, meter, |purse| purse.unlimited_until = until);
            }
            Down::Short { meter, least, left, again_ms, ends } => self.answered(now, meter, |purse| {
                purse.hear_left(now, left.saturating_sub_unsigned(purse.free));
                purse.short = Some(Short { least, again_ms, ends });
            }),
            Down::Grant { meter, amount, since, ends, left, scarce, partial } => {
                self.answered(now, meter, |purse| {
                    purse.short = None;
                    purse.granted(now, amount, (since, ends));
                    purse.hear_left(now, left);
                    (purse.scarce, purse.partial) = (scarce, partial);
                });
            }
        }
        !matches!(down, Down::Recall(_) | Down::Left(..) | Down::Resync)
    }

    /// The owner has lost its books: a new life, without free credits. What is reserved is said as an overdraft.
    pub fn hello(&mut self, life: u32) {
        self.life = life;
        self.outgoing.clear();
        self.outgoing.push_back(Up::Hello);
        self.urgent = true;
        for wallet in self.wallets.iter_mut().flatten() {
            let scope = wallet.scope;
            for purse in wallet.purses() {
                let meter = Meter { scope, measure: purse.measure };
                self.outgoing.extend(purse.begin_life(meter));
            }
        }
    }

    /// Says everything that is to be said; what is refused is said the next time. Returns whether all of it is out.
    pub fn say(&mut self, now: Now, mut put: impl FnMut(Up) -> Result<(), Up>) -> bool {
        self.say_at = None;
        let mut later: SmallVec<[u32; 8]> = SmallVec::new();
        for place in std::mem::take(&mut self.unsaid) {
            let Some(wallet) = wallet(&mut self.wallets, place) else { continue };
            if wallet.report(now, &mut self.outgoing) {
                later.push(place);
            }
        }
        for place in later {
            self.note_unsaid(now, place, FRESH);
        }
        if self.tidy_at.is_some_and(|at| at <= now.monotonic) {
            self.forget_idle(now);
        }
        while let Some(up) = self.outgoing.pop_front() {
            if let Err(refused) = put(up) {
                self.outgoing.push_front(refused);
                return false;
            }
        }
        self.urgent = false;
        true
    }

    pub(super) fn note_unsaid(&mut self, now: Now, place: u32, within: Duration) {
        let wallet = wallet(&mut self.wallets, place);
        if wallet.is_some_and(|wallet| !std::mem::replace(&mut wallet.has_news, true)) {
            self.unsaid.push(place);
        }
        let due = now.monotonic.plus(within);
        self.say_at = Some(self.say_at.map_or(due, |at| at.min(due)));
    }

    fn answered(&mut self, now: Now, meter: Meter, take: impl FnOnce(&mut Purse)) {
        let Some(place) = self.places.get(&meter.scope).copied() else { return };
        let Some(wallet) = wallet(&mut self.wallets, place) else { return };
        let purse = wallet.purse(meter.measure);
        purse.wants = false;
        purse.answers = purse.answers.wrapping_add(1);
        purse.answered_at = Some(now.monotonic);
        take(purse);
        if purse.scarce && purse.free > 0 {
            // If those who waited for them have left, they go home.
            self.note_unsaid(now, place, FRESH);
        }
    }

    fn recalled(&mut self, now: Now, meter: Meter) {
        let place = self.places.get(&meter.scope).copied();
        let wallet = place.and_then(|place| wallet(&mut self.wallets, place));
        let (Some(place), Some(wallet)) = (place, wallet) else {
            self.urgent = true;
            let at = Stamp::default();
            return self.outgoing.push_back(Up::Return { meter, at, amount: 0, reserved: 0, recalled: true });
        };
        wallet.purse(meter.measure).recall();
        self.answer_recall(now, place, meter);
    }

    /// Answers a recall if it is time for it; else when it is.
    pub(super) fn answer_recall(&mut self, now: Now, place: u32, meter: Meter) {
        let Some(wallet) = wallet(&mut self.wallets, place) else { return };
        let purse = wallet.purse(meter.measure);
        while let Some(used) = purse.report(meter) {
            self.outgoing.push_back(used);
        }
        match purse.answer_recall(now, meter) {
            Some(answer) => {
                self.outgoing.push_back(answer);
                self.urgent = true;
            }
            None => self.note_unsaid(now, place, FRESH),
        }
    }

    /// Scopes that nobody has used for a while give back what they hold.
    fn forget_idle(&mut self, now: Now) {
        for (place, slot) in self.wallets.iter_mut().enumerate() {
            let Some(wallet) = slot.as_mut() else { continue };
            if now.monotonic.since(wallet.touched) < IDLE || wallet.is_busy() {
                continue;
            }
            wallet.give_back(&mut self.outgoing);
            self.places.remove(&wallet.scope);
            *slot = None;
            self.vacant.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
        let is_known = self.wallets.iter().any(Option::is_some);
        self.tidy_at = is_known.then(|| now.monotonic.plus(IDLE / 8));
    }
}
