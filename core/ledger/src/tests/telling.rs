//! What an operator is told: changes, once each.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing::subscriber::with_default;

use super::{light_dir, opened, options, record};
use crate::{Kind, Options, open};

/// What was logged while `work` ran, line by line.
fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::new(Lines(Arc::clone(&lines)));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer);
    with_default(subscriber.finish(), work);
    let bytes = lines.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_refuses_is_an_error_once_and_good_news_once() {
    let dir = light_dir();
    let mut log = opened(dir.path());
    let refused = io::Error::from(io::ErrorKind::StorageFull);
    let lines = logged(|| {
        for error in [None, Some(&refused), Some(&refused), Some(&refused), None, None] {
            log.writer.tell(error);
        }
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("ERROR obleth_ledger: the usage log cannot be written"), "{lines:?}");
    assert!(
        lines[0].contains(&*dir.path().to_string_lossy()) && lines[0].contains("no storage space"),
        "{lines:?}"
    );
    assert!(lines[1].contains("INFO obleth_ledger: the usage log can be written again"), "{lines:?}");
}

#[test]
fn a_full_log_is_an_error_once_and_good_news_once() {
    let dir = light_dir();
    let mut log = open(Options { max_bytes: 128 << 10, ..options(dir.path()) }).unwrap();
    let lines = logged(|| {
        while log.tail.figures().lost < 20 {
            assert!(log.slates[0].note(Kind::End, &record(1)));
            log.writer.round().unwrap();
        }
        log.tail.release(log.tail.durable());
        for _ in 0..2 {
            assert!(log.slates[0].note(Kind::End, &record(2)));
            log.writer.round().unwrap();
        }
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("ERROR obleth_ledger: the usage log is full (OBLETH_WAL_MAX_BYTES)"),
        "{lines:?}"
    );
    assert!(lines[1].contains("INFO obleth_ledger: the usage log has room again"), "{lines:?}");
    assert!(lines[1].contains("lost=20"), "{lines:?}");
}
