//! A doorbell: an eventfd that wakes one sleeping thread, and costs nothing while that thread is awake.
//!
//! The sleeper declares that it is going to sleep, looks at its rings once more, and only then waits for the
//! descriptor to become readable. Whoever pushed something rings; the write happens only for a declared
//! sleeper, and only once. The two fences make "pushed before I looked" or "saw me asleep" true, always one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering, fence},
};

use rustix::event::{EventfdFlags, eventfd};

/// See the module's text. One sleeper; any number of ringers.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Doorbell {
    /// A bell whose owner is awake.
    ///
    /// # Errors
    /// The kernel's, when it has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, asleep: AtomicBool::new(false) })
    }

    /// Wakes the owner if it sleeps. Call it after the push.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // An eventfd refuses a write only at its maximum, and then it is readable anyway.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// The owner is about to sleep. It must look at its rings once more after this, and wait for
    /// [`Doorbell::fd`] to become readable only if they are empty; else call [`Doorbell::awake`].
    pub fn going_to_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake again. Takes a ring that came meanwhile off the descriptor.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let mut count = [0_u8; 8];
        // Nothing to read means that nobody rang: the owner found its ring filled by itself.
        let _ = rustix::io::read(&self.fd, &mut count);
    }

    /// What the owner waits on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::Ring;

    fn readable(bell: &Doorbell, wait: bool) -> bool {
        let limit = rustix::event::Timespec { tv_sec: if wait { 20 } else { 0 }, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit)).unwrap() == 1
    }

    impl AsFd for Doorbell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd()
        }
    }

    #[test]
    fn an_owner_who_is_awake_is_not_disturbed() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!readable(&bell, false));
    }

    #[test]
    fn many_rings_wake_a_sleeper_once() {
        let bell = Doorbell::new().unwrap();
        bell.going_to_sleep();
        bell.ring();
        bell.ring();
        assert!(readable(&bell, false));
        bell.awake();
        assert!(!readable(&bell, false));
    }

    #[test]
    fn no_push_is_missed_between_two_threads() {
        let shared = Arc::new((Ring::new(4), Doorbell::new().unwrap()));
        let pusher = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for value in 0..20_000_u32 {
                let mut value = value;
                while let Err(back) = pusher.0.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
                pusher.1.ring();
            }
        });
        let (ring, bell) = &*shared;
        let mut expected = 0;
        while expected < 20_000 {
            bell.going_to_sleep();
            if ring.is_empty() {
                assert!(readable(bell, true), "slept through push {expected}");
            }
            bell.awake();
            while let Some(value) = ring.pop() {
                assert_eq!(value, expected);
                expected += 1;
            }
        }
        thread.join().unwrap();
    }
}
