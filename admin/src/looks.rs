//! Asking for a report and waiting for it: who wishes for one gets one that is not older than the wish.
//!
//! One is under way at a time, however many ask for one, because the coordinator walks all its books for it.

use std::time::{Duration, Instant};

/// After this long a look counts as lost: the coordinator may have died over it.
const LOST: Duration = Duration::from_secs(1);

/// See the module's text. `T` is what is reported.
#[derive(Debug)]
pub(crate) struct Looks<T> {
    latest: Option<T>,
    /// Looks that were asked for, and how many of them are answered.
    wanted: u64,
    answered: u64,
    /// The look under way: the number of the last wish that it fulfils, and since when.
    under_way: Option<(u64, Instant)>,
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { latest: None, wanted: 0, answered: 0, under_way: None }
    }
}

impl<T: Clone> Looks<T> {
    /// Asks for a report. Returns the number of the wish, and whether one must be ordered for it.
    pub(crate) fn wish(&mut self) -> (u64, bool) {
        self.wanted += 1;
        (self.wanted, self.begins())
    }

    /// Takes a report in. Returns whether another one must be ordered: wishes that came after this one had been need one
    /// that is not older than they are.
    pub(crate) fn arrived(&mut self, report: T) -> bool {
        let upto = self.under_way.take().map_or(0, |(upto, _)| upto);
        self.answered = self.answered.max(upto);
        self.latest = Some(report);
        self.answered != self.wanted && self.begins()
    }

    /// Answers the wish of this number, if it is answered.
    pub(crate) fn answer_to(&self, wish: u64) -> Option<T> {
        self.latest.clone().filter(|_| self.answered >= wish)
    }

    fn begins(&mut self) -> bool {
        if self.under_way.is_some_and(|(_, since)| since.elapsed() < LOST) {
            return false;
        }
        self.under_way = Some((self.wanted, Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_answered_by_a_report_that_was_ordered_after_it() {
        let mut looks = Looks::default();
        let (first, is_ordered) = looks.wish();
        assert!(is_ordered);
        let [second, third] = [(); 2].map(|()| {
            let (wish, is_ordered) = looks.wish();
            assert!(!is_ordered, "one at a time");
            wish
        });
        assert!(looks.arrived("a"), "one more for the others");
        assert_eq!((looks.answer_to(first), looks.answer_to(second)), (Some("a"), None));
        assert!(!looks.arrived("b"));
        assert_eq!((looks.answer_to(second), looks.answer_to(third)), (Some("b"), Some("b")));
    }

    #[test]
    fn a_report_that_nobody_asked_for_answers_nobody() {
        let mut looks = Looks::default();
        assert!(!looks.arrived("stray"));
        let (wish, is_ordered) = looks.wish();
        assert!(is_ordered && looks.answer_to(wish).is_none());
    }
}
