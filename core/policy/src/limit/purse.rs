//! A shard's credits: what it holds of every meter that its requests use, and what they have reserved.
//!
//! A request takes from all its meters or from none. What it lacks is asked for, and nothing is taken meanwhile. A rate is
//! used when a request begins, a budget when it ends; the difference between what was reserved and what it came to goes
//! back, or is taken without asking: truth is never refused. Nothing here waits, and nothing is said twice.

mod wallet;
mod words;

use std::{collections::VecDeque, time::Duration};

use foldhash::{HashMap, HashMapExt};
use smallvec::SmallVec;

use self::wallet::{Purse, Wallet};
use super::{Limits, Measure, Meter, Scope, Stamp, Up, owner::Now};
use crate::unit::{Instant, UnixMs};

/// How long what is not urgent may stay unsaid.
const SAY_WITHIN: Duration = Duration::from_millis(20);
/// How long a scope that nobody uses is remembered.
const IDLE: Duration = Duration::from_secs(120);
/// How long a meter that the owner knows no limit of is not asked for again.
const UNLIMITED: Duration = Duration::from_secs(1);

/// The scopes of a request that have limits, with what they are as the shard knows it.
pub type Scopes<'a> = SmallVec<[(Scope, &'a Limits); 3]>;

/// What a request wants to reserve of a measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// What it would like.
    pub need: u64,
    /// What it can do with; at most `need`.
    pub least: u64,
}

impl Want {
    /// All or nothing.
    #[must_use]
    pub const fn just(need: u64) -> Self {
        Self { need, least: need }
    }
}

/// One meter of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    place: u32,
    measure: Measure,
    stamp: Stamp,
    amount: u64,
}

/// What a request has reserved. To be handed back with [`Purses::settle`], exactly once.
#[derive(Debug, Default)]
#[must_use = "reserved credits come back only when they are settled"]
pub struct Reserved(SmallVec<[Part; 4]>);

impl Reserved {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The meters that a request waits for, and the answers that had come by then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking(SmallVec<[(Meter, u32); 2]>);

impl Lacking {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A refusal: nobody has what a request can do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Which limit it is.
    pub meter: Meter,
    /// What is left of it; not enough.
    pub left: u64,
    /// When there will be room, as far as can be told: for a budget its next period.
    pub again_ms: u64,
    /// First moment of a budget's next period; `i64::MAX` if there is none.
    pub ends: UnixMs,
}

/// How a rate stands, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What the last sixty seconds may come to.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Milliseconds until all of it is there again.
    pub reset_ms: u64,
}

/// See the module's text. Owned by the shard.
#[derive(Debug)]
pub struct Purses {
    life: u32,
    places: HashMap<Scope, u32>,
    wallets: Vec<Option<Wallet>>,
    vacant: Vec<u32>,
    outgoing: VecDeque<Up>,
    /// Places of wallets with something unsaid.
    unsaid: Vec<u32>,
    urgent: bool,
    say_at: Option<Instant>,
    /// When idle scopes are looked for next; `None` while there is none at all.
    tidy_at: Option<Instant>,
}

impl Purses {
    /// Purses without credits, in the life of this number.
    #[must_use]
    pub fn new(life: u32) -> Self {
        Self {
            life,
            places: HashMap::new(),
            wallets: Vec::new(),
            vacant: Vec::new(),
            outgoing: VecDeque::from([Up::Hello]),
            unsaid: Vec::new(),
            urgent: true,
            say_at: None,
            tidy_at: None,
        }
    }

    /// The number of this life.
    #[must_use]
    pub const fn life(&self) -> u32 {
        self.life
    }

    /// Reserves what `need` says for every limit of the scopes; where it says nothing, nothing is. What is lacking is asked for
    /// as that, or as `least`, which the request can do with. Credits that were granted for requests that wait are theirs: who
    /// has not `waited` leaves them.
    ///
    /// # Errors
    /// What is lacking. It has been asked for; come back when [`Purses::has_answer`].
    pub fn reserve(
        &mut self,
        now: Now,
        scopes: &Scopes<'_>,
        waited: bool,
        (need, least): (impl Fn(Measure) -> Option<u64>, impl Fn(Measure) -> u64),
    ) -> Result<Reserved, Lacking> {
        let mut reserved = Reserved::default();
        let mut lacking = Lacking::default();
        self.each(now, scopes, |place, meter, purse| {
            let measure = meter.measure;
            // What uses nothing passes, however little is left.
            let need = need(measure).filter(|need| *need > 0 && !purse.is_unlimited(now))?;
            if purse.free_for(now, waited) >= need {
                reserved.0.push(Part { place, measure, stamp: purse.stamp(now), amount: need });
                return None;
            }
            lacking.0.push((meter, purse.answers));
            Some(Want { need, least: least(measure).min(need) })
        });
        if !lacking.is_empty() {
            return Err(lacking);
        }
        self.take(now, &reserved);
        Ok(reserved)
    }

    /// Asks how much is left of every budget of these scopes that a request wants something of, and that nobody has said
    /// lately. Comes back with [`Purses::has_answer`].
    pub fn ask_anew(
        &mut self,
        now: Now,
        scopes: &Scopes<'_>,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Lacking {
        let mut lacking = Lacking::default();
        self.each(now, scopes, |_, meter, purse| {
            let want = want(meter.measure).filter(|want| want.need > 0 && meter.measure.is_budget())?;
            if purse.is_unlimited(now) || purse.is_answered_lately(now) {
                return None;
            }
            lacking.0.push((meter, purse.answers));
            Some(Want::just(want.least))
        });
        lacking
    }

    /// What to settle by for a request that goes on without having reserved anything.
    pub fn unfunded(&mut self, now: Now, scopes: &Scopes<'_>) -> Reserved {
        let mut reserved = Reserved::default();
        self.each(now, scopes, |place, Meter { measure, .. }, purse| {
            reserved.0.push(Part { place, measure, stamp: purse.stamp(now), amount: 0 });
            None
        });
        self.take(now, &reserved);
        reserved
    }

    /// Visits the purse of every limit of these scopes, and asks the owner for what the visitor wants of it.
    fn each(
        &mut self,
        now: Now,
        scopes: &Scopes<'_>,
        mut visit: impl FnMut(u32, Meter, &mut Purse) -> Option<Want>,
    ) {
        for (scope, limits) in scopes {
            let place = self.place(now, *scope);
            let Some(wallet) = wallet(&mut self.wallets, place) else { continue };
            for (measure, limit) in limits.iter() {
                let (meter, purse) = (Meter { scope: *scope, measure }, wallet.purse(measure));
                purse.roll(now, limit);
                if let Some(want) = visit(place, meter, purse) {
                    self.urgent |= purse.ask(meter, want, &mut self.outgoing);
                }
            }
        }
    }

    /// Takes what was found to be there. It frees nothing for others, so to say it can wait.
    fn take(&mut self, now: Now, reserved: &Reserved) {
        for part in &reserved.0 {
            self.change(now, part, |wallet| wallet.take(part.measure, (part.stamp, part.amount)));
        }
    }

    /// Whether everything that was lacking has been answered since.
    #[must_use]
    pub fn has_answer(&self, lacking: &Lacking) -> bool {
        lacking.0.iter().all(|(meter, answers)| self.purse(*meter).is_none_or(|p| p.answers != *answers))
    }

    /// Whether the answer is no, to a request that wants this: the tightest of what is short.
    #[must_use]
    pub fn shortage(&self, lacking: &Lacking, want: impl Fn(Measure) -> Option<Want>) -> Option<Shortage> {
        let short = lacking.0.iter().filter_map(|(meter, answers)| {
            let purse = self.purse(*meter).filter(|purse| purse.answers != *answers)?;
            let least = want(meter.measure)?.least;
            let refused = purse.short.filter(|short| least >= short.least && purse.free < least)?;
            let left = u64::try_from(purse.beside).unwrap_or(0).saturating_add(purse.free);
            Some(Shortage { meter: *meter, left, again_ms: refused.again_ms, ends: refused.ends })
        });
        // Of several the one that lasts longest: what is true then is true for all.
        short.max_by_key(|short| short.again_ms)
    }

    /// What is free by now of what was lacking and was granted in part, because there is no more. Where all was granted that
    /// was asked for, others may have taken it: ask again.
    pub fn free(&self, now: Now, lacking: &Lacking) -> impl Iterator<Item = (Measure, u64)> {
        lacking.0.iter().filter_map(move |(meter, _)| {
            let purse = self.purse(*meter).filter(|purse| purse.partial && !purse.is_unlimited(now))?;
            Some((meter.measure, purse.free_at(now)))
        })
    }

    /// What is left of every budget of these scopes that a request wants something of; `None` if the owner has not said it of
    /// all of them in this period.
    pub fn left(
        &self,
        now: Now,
        scopes: &Scopes<'_>,
        want: impl Fn(Measure) -> Option<Want>,
    ) -> Option<SmallVec<[(Measure, u64); 4]>> {
        let meters = scopes
            .iter()
            .flat_map(|(scope, limits)| limits.iter().map(|(measure, _)| Meter { scope: *scope, measure }));
        let wants = |measure: Measure| measure.is_budget() && want(measure).is_some_and(|want| want.need > 0);
        let left = |meter: Meter| Some((meter.measure, self.purse(meter)?.left(now)?));
        meters.filter(|meter| wants(meter.measure)).map(left).collect()
    }

    /// A request is over, or will never begin: `came_to` says what it used of each measure.
    pub fn settle(&mut self, now: Now, reserved: Reserved, came_to: impl Fn(Measure) -> u64) {
        for part in &reserved.0 {
            let amount = came_to(part.measure);
            self.urgent |= self.change(now, part, |wallet| {
                wallet.settle(now, part.measure, (part.stamp, part.amount), amount)
            });
        }
    }

    /// How the tightest rate of each of these measures stands.
    #[must_use]
    pub fn rates<const N: usize>(
        &self,
        now: Now,
        scopes: &Scopes<'_>,
        measures: [Measure; N],
    ) -> [Option<Rate>; N] {
        let mut tightest = [None::<Rate>; N];
        for (scope, limits) in scopes {
            let wallet = self.wallet(*scope);
            for (tightest, measure) in tightest.iter_mut().zip(measures) {
                let Some(limit) = limits.get(measure) else { continue };
                let purse = wallet.and_then(|wallet| wallet.find(measure));
                let untouched = Rate { limit, remaining: limit, reset_ms: 0 };
                let rate = purse.map_or(untouched, |purse| purse.rate(now, limit));
                if tightest.is_none_or(|known| rate.remaining < known.remaining) {
                    *tightest = Some(rate);
                }
            }
        }
        tightest
    }

    /// Whether somebody waits for what is unsaid.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// When [`Purses::say`] has something to do; `None` while nothing is known of any scope.
    #[must_use]
    pub fn say_at(&self) -> Option<Instant> {
        self.say_at.into_iter().chain(self.tidy_at).min()
    }

    fn purse(&self, meter: Meter) -> Option<&Purse> {
        self.wallet(meter.scope)?.find(meter.measure)
    }

    fn wallet(&self, scope: Scope) -> Option<&Wallet> {
        let place = *self.places.get(&scope)?;
        self.wallets.get(place as usize)?.as_ref()
    }

    fn place(&mut self, now: Now, scope: Scope) -> u32 {
        if let Some(place) = self.places.get(&scope) {
            return *place;
        }
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.wallets.push(None);
            u32::try_from(self.wallets.len().saturating_sub(1)).unwrap_or(u32::MAX)
        });
        if let Some(vacant) = self.wallets.get_mut(place as usize) {
            *vacant = Some(Wallet::new(scope, now.monotonic));
        }
        self.places.insert(scope, place);
        self.tidy_at.get_or_insert(now.monotonic.plus(IDLE));
        place
    }

    /// Changes what a request has a part in; what follows is said soon. True if somebody may wait for it.
    fn change(&mut self, now: Now, part: &Part, change: impl FnOnce(&mut Wallet) -> &mut Purse) -> bool {
        let Some(wallet) = wallet(&mut self.wallets, part.place) else { return false };
        wallet.touched = now.monotonic;
        let meter = Meter { scope: wallet.scope, measure: part.measure };
        let purse = change(wallet);
        let (has_news, scarce) = (purse.has_news(), purse.scarce || purse.is_hidden());
        if purse.recalled {
            self.answer_recall(now, part.place, meter);
        } else if has_news {
            self.note_unsaid(now, part.place, SAY_WITHIN);
        }
        has_news && scarce
    }
}

/// The wallet at a place. Apart from [`Purses`], so that the rest of it stays free while one is changed.
fn wallet(wallets: &mut [Option<Wallet>], place: u32) -> Option<&mut Wallet> {
    wallets.get_mut(place as usize)?.as_mut()
}
