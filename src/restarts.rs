//! Threads that are started again when they die, and how soon.
//!
//! The first few restarts are at once: what killed a thread may never come again. It must never start one so often that a
//! fault at its start becomes a busy loop.

use std::{
    collections::VecDeque,
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::threads::Ending;

/// Pace at which the end of a thread is looked for.
const END_LOOK: Duration = Duration::from_millis(1);

/// Starts that a thread may take again within [`RestartPace::WINDOW`]; a further one waits until it may.
#[derive(Debug, Default)]
struct RestartPace(VecDeque<Instant>);

impl RestartPace {
    /// Restarts per window. One poisonous request must not keep a shard down; a fault at every start must not
    /// burn a core.
    const MOST: usize = 5;
    /// What [`Self::MOST`] is counted over.
    const WINDOW: Duration = Duration::from_secs(60);

    /// Books the next restart and says when it is due.
    fn next(&mut self, now: Instant) -> Instant {
        let oldest = if self.0.len() < Self::MOST { None } else { self.0.pop_front() };
        let due = oldest.map_or(now, |start| (start + Self::WINDOW).max(now));
        self.0.push_back(due);
        due
    }
}

/// A thread of which there is one in the process.
pub(crate) trait Restart {
    /// What is said when it dies: what that means, and until when.
    const DEATH: &'static str;

    /// Its handle.
    fn kept(&mut self) -> &mut Kept;

    /// Starts it, for the first time or again.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread.
    fn spawn(&mut self) -> io::Result<()>;

    /// It is at its end though nobody stopped it: it is due to start again.
    fn ended(&mut self, ending: &Ending, now: Instant) {
        self.kept().join();
        let wait_ms = self.kept().book(now).as_millis();
        tracing::error!(cause = %ending, wait_ms, "{}", Self::DEATH);
    }

    /// Starts it again if its time has come.
    fn restart_due(&mut self, now: Instant) {
        if !self.kept().is_due(now) {
            return;
        }
        if let Err(error) = self.spawn() {
            self.ended(&Ending::Failed(error.to_string()), now);
        }
    }

    /// When [`Restart::restart_due`] has something to do next.
    fn next_restart(&mut self) -> Option<Instant> {
        self.kept().next()
    }
}

/// The handle of such a thread.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    thread: Option<JoinHandle<()>>,
    pace: RestartPace,
    due: Option<Instant>,
}

impl Kept {
    /// It has been started.
    pub(crate) fn runs(&mut self, thread: JoinHandle<()>) {
        self.thread = Some(thread);
    }

    /// Whether it has, and has not been found at its end.
    pub(crate) const fn is_running(&self) -> bool {
        self.thread.is_some()
    }

    /// Whether it is at its end, or was never started.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// It is at its end, and has said so: this does not wait.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // What runs threads lets no panic through.
            let _ = thread.join();
        }
    }

    /// Books the next start, and says how long it has to wait for it.
    pub(crate) fn book(&mut self, now: Instant) -> Duration {
        let due = self.pace.next(now);
        self.due = Some(due);
        due.saturating_duration_since(now)
    }

    /// Whether a booked start's time has come; true once.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// When the booked start is.
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.due
    }

    /// It is not started any more.
    pub(crate) fn give_up(&mut self) {
        self.due = None;
    }

    /// Waits until it ends, which it was told to, and says whether it does within `limit`; else it is left.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.is_finished() {
            if Instant::now() > deadline {
                self.thread = None;
                return false;
            }
            thread::sleep(END_LOOK);
        }
        self.join();
        true
    }

    /// The thread, for whoever ends it.
    pub(crate) fn take(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn restarts_are_at_once_until_there_are_too_many_within_the_window() {
        let mut pace = RestartPace::default();
        let start = Instant::now();
        for _ in 0..RestartPace::MOST {
            assert_eq!(pace.next(start), start);
        }
        assert_eq!(pace.next(start), start + RestartPace::WINDOW);
        let later = start + RestartPace::WINDOW * 3;
        assert_eq!(pace.next(later), later);
    }

    #[test]
    fn a_thread_that_hangs_is_left_and_one_that_ends_is_joined() {
        let (let_go, hangs) = mpsc::channel::<()>();
        let (gone, is_gone) = mpsc::channel();
        let mut kept = Kept::default();
        assert!(kept.ends_within(Duration::ZERO), "there is none");
        kept.runs(thread::spawn(move || {
            let _ = hangs.recv();
            gone.send(()).unwrap();
        }));
        assert!(!kept.ends_within(Duration::from_millis(50)));
        assert!(!kept.is_running());
        drop(let_go);
        is_gone.recv().unwrap();
        kept.runs(thread::spawn(|| {}));
        assert!(kept.ends_within(Duration::from_secs(20)));
    }
}
