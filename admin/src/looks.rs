//! Asking for a report and waiting for it: who wishes for one gets one that is not older than the wish.
//!
//! One is under way at a time, however many ask for one, because the coordinator walks all its books for it. Where a pause
//! is asked for, who comes within it waits, and all of them share the next one.

use std::time::Duration;

use tokio::time::Instant;

/// After this long a look counts as lost: the coordinator may have died over it.
const LOST: Duration = Duration::from_secs(1);

/// See the module's text. `T` is what is reported.
#[derive(Debug)]
pub(crate) struct Looks<T> {
    latest: Option<T>,
    /// Looks that were asked for, and how many of them are answered.
    wanted: u64,
    answered: u64,
    /// The number of the last wish that the look under way fulfils.
    under_way: Option<u64>,
    /// When the last look was ordered.
    ordered: Option<Instant>,
}

/// What somebody with a wish does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    /// It is fulfilled.
    Have(T),
    /// Order a look, and wait for a report.
    Order,
    /// Wait for a report.
    Report,
    /// Wait for so long, or for a report.
    Pause(Duration),
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { latest: None, wanted: 0, answered: 0, under_way: None, ordered: None }
    }
}

impl<T: Clone> Looks<T> {
    /// Notes a wish for a report. Returns its number, for [`Looks::next`].
    pub(crate) fn wish(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    /// What the wish of this number needs, if there is to be a pause of this length at least between two orders. Ask again
    /// after every report.
    pub(crate) fn next(&mut self, wish: u64, pause: Duration) -> Next<T> {
        if let Some(report) = self.latest.clone().filter(|_| self.answered >= wish) {
            return Next::Have(report);
        }
        let passed = self.ordered.map_or(Duration::MAX, |ordered| ordered.elapsed());
        if self.under_way.is_some() && passed < LOST {
            return Next::Report;
        }
        if passed < pause {
            return Next::Pause(pause.saturating_sub(passed));
        }
        (self.under_way, self.ordered) = (Some(self.wanted), Some(Instant::now()));
        Next::Order
    }

    /// Takes a report in.
    pub(crate) fn arrived(&mut self, report: T) {
        self.answered = self.answered.max(self.under_way.take().unwrap_or(0));
        self.latest = Some(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn a_wish_is_answered_by_a_report_that_was_ordered_after_it() {
        let mut looks = Looks::default();
        let first = looks.wish();
        assert_eq!(looks.next(first, AT_ONCE), Next::Order);
        let [second, third] = [looks.wish(), looks.wish()];
        for wish in [first, second, third] {
            assert_eq!(looks.next(wish, AT_ONCE), Next::Report, "one at a time");
        }
        looks.arrived("a");
        assert_eq!(looks.next(first, AT_ONCE), Next::Have("a"));
        assert_eq!(looks.next(third, AT_ONCE), Next::Order, "one more for both others");
        assert_eq!(looks.next(second, AT_ONCE), Next::Report);
        looks.arrived("b");
        for wish in [second, third] {
            assert_eq!(looks.next(wish, AT_ONCE), Next::Have("b"));
        }
    }

    #[test]
    fn a_report_that_nobody_asked_for_answers_nobody() {
        let mut looks = Looks::default();
        looks.arrived("stray");
        let wish = looks.wish();
        assert_eq!(looks.next(wish, AT_ONCE), Next::Order);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_and_however_often_looks_are_apart_by_a_pause() {
        let (mut looks, pause) = (Looks::default(), Duration::from_millis(250));
        let (begun, mut orders) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(10) {
            // Each of them asks again as soon as it has its answer.
            let [first, second] = [looks.wish(), looks.wish()];
            while let Next::Pause(left) = looks.next(first, pause) {
                tokio::time::sleep(left).await;
            }
            orders += 1;
            assert_eq!(looks.next(second, pause), Next::Report);
            looks.arrived(orders);
            assert_eq!([first, second].map(|wish| looks.next(wish, pause)), [Next::Have(orders); 2]);
        }
        assert_eq!(orders, 41, "four a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_lost_is_ordered_again() {
        let mut looks = Looks::<()>::default();
        let wish = looks.wish();
        assert_eq!(looks.next(wish, AT_ONCE), Next::Order);
        tokio::time::advance(LOST).await;
        assert_eq!(looks.next(wish, AT_ONCE), Next::Order);
    }
}
