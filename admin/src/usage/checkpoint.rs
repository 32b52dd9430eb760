//! How far the rows of the log have come, for a ledger that cannot remember it together with them.
//!
//! A small file in the log's folder: the position reached, and where the batch ends that may have been sent and whose
//! fate is not known. It is replaced as a whole, so a reader finds the old text or the new one, and it is on the disk
//! before what it allows happens: a batch leaves after the file says that it may have, and the log is let go after the
//! file says how far it may be.
//!
//! ```text
//! obleth checkpoint 1
//! reached 3:4096
//! sent 3:901120
//! check 8f14e45fceea167a
//! ```
//!
//! `-` stands for nothing; `check` is the beginning of the SHA-256 of the lines before it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use obleth_ledger::Position;
use sha2::{Digest, Sha256};

use crate::random;

/// The file's name in the log's folder.
const NAME: &str = "clickhouse.checkpoint";
/// The first line; the number is the format's version.
const TITLE: &str = "obleth checkpoint 1";
/// Bytes of the checksum.
const CHECK: usize = 8;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every row before this is in the ledger.
    pub(crate) reached: Option<Position>,
    /// Rows before this may be in the ledger; later ones are not.
    pub(crate) sent: Option<Position>,
}

/// Why there is no progress to go on from. The remedy is part of the words.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read the checkpoint {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Another version wrote it.
    #[error(
        "the checkpoint {path} is of another version of this program: start that one until its log is empty"
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
    },
    /// Its text contradicts itself.
    #[error(
        "the checkpoint {path} is damaged: remove it; what the log still holds is then compared with ClickHouse row by row"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The file and what it says. One owner.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    progress: Progress,
}

impl Checkpoint {
    /// Reads the file in the log's folder. Where there is none, everything up to `durable`, which the log holds already,
    /// may have been sent by an earlier process.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub(crate) fn open(folder: &Path, durable: Position) -> Result<Self, CheckpointError> {
        let path = folder.join(NAME);
        let progress = match fs::read(&path) {
            Ok(text) => parse(&text, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Progress { reached: None, sent: Some(durable) }
            }
            Err(source) => return Err(CheckpointError::Unreadable { path, source }),
        };
        Ok(Self { path, progress })
    }

    /// What the file says.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// Replaces the file. Waits for the disk.
    ///
    /// # Errors
    /// The kernel's; the file is then as it was, or says the new progress.
    pub(crate) fn save(&mut self, progress: Progress) -> io::Result<()> {
        if progress == self.progress {
            return Ok(());
        }
        let new = self.path.with_extension("checkpoint-new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text(progress).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.progress = progress;
        Ok(())
    }
}

fn text(progress: Progress) -> String {
    let place = |position: Option<Position>| position.map_or("-".to_owned(), |position| position.to_string());
    let lines = format!("{TITLE}\nreached {}\nsent {}\n", place(progress.reached), place(progress.sent));
    let check = check(&lines);
    lines + &check
}

fn check(lines: &str) -> String {
    let digest = Sha256::digest(lines.as_bytes());
    format!("check {}\n", random::hex(digest.get(..CHECK).unwrap_or_default()))
}

fn parse(text: &[u8], path: &Path) -> Result<Progress, CheckpointError> {
    let damaged = || CheckpointError::Damaged { path: path.into() };
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    let (title, _) = text.split_once('\n').ok_or_else(damaged)?;
    if title != TITLE && title.starts_with("obleth checkpoint ") {
        return Err(CheckpointError::OtherVersion { path: path.into() });
    }
    let at = text.rfind("\ncheck ").ok_or_else(damaged)?;
    let (lines, found) = text.split_at_checked(at.saturating_add(1)).ok_or_else(damaged)?;
    if found != check(lines) {
        return Err(damaged());
    }
    let place = |name: &str| {
        let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        match line.ok_or_else(damaged)? {
            "-" => Ok(None),
            place => place.parse().map(Some).map_err(|_| damaged()),
        }
    };
    Ok(Progress { reached: place("reached")?, sent: place("sent")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64, u64) -> Option<Position> = |segment, offset| Some(Position { segment, offset });

    fn written(folder: &Path, progress: Progress) -> PathBuf {
        Checkpoint::open(folder, Position::default()).unwrap().save(progress).unwrap();
        folder.join(NAME)
    }

    #[test]
    fn what_was_saved_is_what_the_next_process_finds() {
        let folder = tempfile::tempdir().unwrap();
        for progress in [
            Progress { reached: AT(3, 4096), sent: AT(3, 901_120) },
            Progress { reached: AT(4, 0), sent: None },
            Progress { reached: None, sent: AT(1, 64) },
        ] {
            written(folder.path(), progress);
            let found = Checkpoint::open(folder.path(), Position { segment: 9, offset: 9 }).unwrap();
            assert_eq!(found.progress(), progress);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn without_a_file_all_that_the_log_holds_may_have_been_sent() {
        let folder = tempfile::tempdir().unwrap();
        let durable = Position { segment: 2, offset: 512 };
        let found = Checkpoint::open(folder.path(), durable).unwrap().progress();
        assert_eq!(found, Progress { reached: None, sent: Some(durable) });
    }

    #[test]
    fn a_file_that_is_cut_or_altered_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), Progress { reached: AT(3, 4096), sent: AT(3, 901_120) });
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Checkpoint::open(folder.path(), Position::default()).is_err()
        };
        for at in 0..whole.len() {
            assert!(refused(&whole[..at]), "cut at {at}");
            let mut altered = whole.clone();
            altered[at] ^= 1;
            assert!(refused(&altered), "altered at {at}");
        }
        assert!(!refused(&whole));
    }

    #[test]
    fn each_refusal_names_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |text: &str| {
            fs::write(folder.path().join(NAME), text).unwrap();
            Checkpoint::open(folder.path(), Position::default()).unwrap_err().to_string()
        };
        assert!(refusal("obleth checkpoint 2\n").contains("another version"));
        assert!(refusal("").contains("remove it"));
    }
}
