//! The concurrency limit: so many completions at once, the rest in order of arrival, as an inference engine's
//! waiting queue.
//!
//! It exists instead of a semaphore because its limit can change while requests wait. A permit that is dropped, for
//! whatever reason, admits the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: u32,
    /// None: no limit.
    limit: Option<u32>,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to generate one completion.
pub(crate) struct Permit {
    gate: Arc<Gate>,
}

impl Gate {
    /// A permit, if one is free and nobody waits for it.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state();
        if !state.waiting.is_empty() || !state.has_room() {
            return None;
        }
        state.running += 1;
        Some(Permit { gate: Arc::clone(self) })
    }

    /// A permit when it is this caller's turn. Dropping the future gives up the place in the queue.
    pub(crate) async fn enter(self: &Arc<Self>) -> Permit {
        loop {
            let turn = {
                let (sender, turn) = oneshot::channel();
                self.state().waiting.push_back(sender);
                turn
            };
            self.admit();
            if let Ok(permit) = turn.await {
                return permit;
            }
        }
    }

    /// Changes the limit; who fits now is admitted, who runs already goes on.
    pub(crate) fn set_limit(self: &Arc<Self>, limit: Option<u32>) {
        self.state().limit = limit;
        self.admit();
    }

    fn admit(self: &Arc<Self>) {
        loop {
            // The lock is released before the permit is sent: a permit that finds nobody comes back through here.
            let next = self.state().next();
            let Some(next) = next else { return };
            let _ = next.send(Permit { gate: Arc::clone(self) });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.running < limit)
    }

    /// The first waiter that is still there, with its permit counted.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        if !self.has_room() {
            return None;
        }
        while let Some(next) = self.waiting.pop_front() {
            if !next.is_closed() {
                self.running += 1;
                return Some(next);
            }
        }
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.state().running -= 1;
        self.gate.admit();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn gate(limit: Option<u32>) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.set_limit(limit);
        gate
    }

    #[test]
    fn waiters_enter_in_order_of_arrival_and_who_left_is_passed_over() {
        let gate = gate(Some(1));
        let running = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(gate.enter());
        let mut third = pin!(gate.enter());
        assert!(first.as_mut().poll(&mut context).is_pending());
        {
            let mut second = pin!(gate.enter());
            assert!(second.as_mut().poll(&mut context).is_pending());
        }
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(running);
        assert!(third.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(permit) = first.as_mut().poll(&mut context) else {
            panic!("the first waiter has its turn")
        };
        drop(permit);
        assert!(third.as_mut().poll(&mut context).is_ready());
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn a_raised_limit_admits_and_a_lowered_one_only_refuses_new_ones() {
        let gate = gate(Some(0));
        let mut context = Context::from_waker(Waker::noop());
        let mut waiter = pin!(gate.enter());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        gate.set_limit(None);
        let Poll::Ready(permit) = waiter.as_mut().poll(&mut context) else { panic!("there is room now") };
        gate.set_limit(Some(1));
        assert!(gate.try_enter().is_none());
        drop(permit);
        assert!(gate.try_enter().is_some());
    }
}
