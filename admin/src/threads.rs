//! The end of threads that may hang in the disk: they are waited for, but never for ever.
//!
//! It exists because whoever waits for them is waited for, too: a sidecar that is not at its end is not started again.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Pace at which the wait looks whether they have ended.
const LOOK: Duration = Duration::from_millis(1);

/// Waits until they have ended, and says which have not within `limit`. Those go on by themselves.
pub(crate) fn join_within(threads: Vec<JoinHandle<()>>, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    let hang = threads.iter().filter(|thread| !thread.is_finished());
    hang.map(|thread| thread.thread().name().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::Builder};

    use super::*;

    #[test]
    fn a_thread_that_hangs_is_named_and_left() {
        let (let_go, hangs) = mpsc::channel::<()>();
        let hanging = Builder::new().name("hanging".to_owned()).spawn(move || {
            let _ = hangs.recv();
        });
        assert_eq!(join_within(vec![hanging.unwrap()], Duration::from_millis(50)), ["hanging"]);
        drop(let_go);
    }

    #[test]
    fn threads_that_end_are_waited_for_until_they_have() {
        let (go, waits) = mpsc::channel::<()>();
        let (ended, has_ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let _ = waits.recv();
            ended.send(()).unwrap();
        });
        let panicking = thread::spawn(|| panic!("on purpose"));
        drop(go);
        assert_eq!(join_within(vec![thread, panicking], Duration::from_secs(20)), [""; 0]);
        assert_eq!(has_ended.try_recv(), Ok(()));
    }
}
