//! How far the rows of the log have come, for a ledger that cannot remember it together with them.
//!
//! A small file in the log's folder: the position reached, where the batch ends that is under way, and where everything
//! ends that may have been sent and whose fate is not known. It is replaced as a whole, so a reader finds the old text or the new one, and it is on the disk
//! before what it allows happens: a batch leaves after the file says that it may have, and the log is let go after the
//! file says how far it may be.
//!
//! ```text
//! obleth checkpoint 1
//! log 4c1b7a52-6c1e-4a7e-9d0b-6f1f2a3b4c5d
//! reached 3:4096
//! batch 3:901120
//! sent 3:901120
//! check 8f14e45fceea167a
//! ```
//!
//! A place means nothing without the log that it is in. `-` stands for nothing; `check` is the beginning of the SHA-256 of the lines before it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use obleth_ledger::{Checkpoint, Position};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::random;

/// The file's name in the log's folder.
const NAME: &str = "clickhouse.checkpoint";
/// How the extension of a text begins that is to replace the file.
const DRAFT: &str = "checkpoint-new";
/// The first line; the number is the format's version.
const TITLE: &str = "obleth checkpoint 1";
/// Bytes of the checksum.
const CHECK: usize = 8;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every row before this is in the ledger.
    pub(crate) reached: Option<Position>,
    /// Where the batch ends that begins at `reached` and is under way: it has to be sent with the same bounds again.
    pub(crate) batch: Option<Position>,
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

/// Who opened which file last. A sidecar that died may still have a thread that waits for the disk to save what it
/// had reached; it must not overwrite what its successor has. Other processes do not come into the log's folder.
static OWNERS: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

fn owners() -> MutexGuard<'static, BTreeMap<PathBuf, u64>> {
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file and what it says of one log. The last one that opens a file owns it, the others cannot save any more.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    owner: u64,
    log_id: Uuid,
    progress: Progress,
}

/// How far a ledger is that remembers it in a file, for opening the log; `None` where it was never said.
///
/// # Errors
/// See [`CheckpointError`].
pub fn read_checkpoint(folder: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    let said = read(&folder.join(NAME))?;
    Ok(said.and_then(|(log_id, said)| said.reached.map(|position| Checkpoint { log_id, position })))
}

impl CheckpointFile {
    /// Reads the file in the log's folder. Where there is none, or one of another log, everything up to `durable`, which
    /// the log holds already, may have been sent by an earlier process. Who opened the file before cannot save any more.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub(crate) fn open(folder: &Path, log_id: Uuid, durable: Position) -> Result<Self, CheckpointError> {
        let path = folder.join(NAME);
        let owner = {
            let mut owners = owners();
            let last = owners.entry(path.clone()).or_default();
            *last += 1;
            *last
        };
        remove_drafts(folder);
        let said = read(&path)?.filter(|(of, _)| *of == log_id);
        let progress =
            said.map_or(Progress { sent: Some(durable), ..Progress::default() }, |(_, progress)| progress);
        Ok(Self { path, owner, log_id, progress })
    }

    /// What the file says.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// Replaces the file. Waits for the disk.
    ///
    /// # Errors
    /// The kernel's; the file is then as it was, or says the new progress. And that somebody else owns the file.
    pub(crate) fn save(&mut self, progress: Progress) -> io::Result<()> {
        if progress == self.progress {
            return Ok(());
        }
        let new = self.path.with_extension(format!("{DRAFT}{}", self.owner));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text(self.log_id, progress).as_bytes())?;
        file.sync_all()?;
        self.publish(&new)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.progress = progress;
        Ok(())
    }

    /// Puts the draft in the file's place, unless somebody else has opened that meanwhile.
    fn publish(&self, draft: &Path) -> io::Result<()> {
        // Nobody may open it between the look and the deed.
        let owners = owners();
        if owners.get(&self.path) != Some(&self.owner) {
            fs::remove_file(draft)?;
            return Err(io::Error::other("another life of the sidecar has the checkpoint"));
        }
        fs::rename(draft, &self.path)
    }
}

/// Removes what processes left that died before they could put it in place; where that fails it does no harm.
fn remove_drafts(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extension.starts_with(DRAFT)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn text(log_id: Uuid, Progress { reached, batch, sent }: Progress) -> String {
    let place = |position: Option<Position>| position.map_or("-".to_owned(), |position| position.to_string());
    let [reached, batch, sent] = [reached, batch, sent].map(place);
    let lines = format!("{TITLE}\nlog {log_id}\nreached {reached}\nbatch {batch}\nsent {sent}\n");
    let check = check(&lines);
    lines + &check
}

fn read(path: &Path) -> Result<Option<(Uuid, Progress)>, CheckpointError> {
    match fs::read(path) {
        Ok(text) => parse(&text, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Unreadable { path: path.into(), source }),
    }
}

fn check(lines: &str) -> String {
    let digest = Sha256::digest(lines.as_bytes());
    format!("check {}\n", random::hex(digest.get(..CHECK).unwrap_or_default()))
}

fn parse(text: &[u8], path: &Path) -> Result<(Uuid, Progress), CheckpointError> {
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
    let value = |name: &str| {
        let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or_else(damaged)
    };
    let place = |name: &str| match value(name)? {
        "-" => Ok(None),
        place => place.parse().map(Some).map_err(|_| damaged()),
    };
    let log_id = value("log")?.parse().map_err(|_| damaged())?;
    Ok((log_id, Progress { reached: place("reached")?, batch: place("batch")?, sent: place("sent")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Uuid = Uuid::from_u128(7);
    const AT: fn(u64, u64) -> Option<Position> = |segment, offset| Some(Position { segment, offset });

    fn written(folder: &Path, progress: Progress) -> PathBuf {
        CheckpointFile::open(folder, LOG, Position::default()).unwrap().save(progress).unwrap();
        folder.join(NAME)
    }

    #[test]
    fn what_was_saved_is_what_the_next_process_finds() {
        let folder = tempfile::tempdir().unwrap();
        for progress in [
            Progress { reached: AT(3, 4096), batch: AT(3, 901_120), sent: AT(3, 901_120) },
            Progress { reached: AT(4, 0), ..Progress::default() },
            Progress { sent: AT(1, 64), ..Progress::default() },
        ] {
            written(folder.path(), progress);
            let found = CheckpointFile::open(folder.path(), LOG, Position { segment: 9, offset: 9 }).unwrap();
            assert_eq!(found.progress(), progress);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn who_died_overwrites_nothing_of_its_successors() {
        let folder = tempfile::tempdir().unwrap();
        let open = || CheckpointFile::open(folder.path(), LOG, Position::default()).unwrap();
        let reached = |offset| Progress { reached: AT(3, offset), ..Progress::default() };
        let mut old = open();
        old.save(reached(64)).unwrap();
        fs::write(folder.path().join("clickhouse.checkpoint-new7"), "of a process that died").unwrap();
        let mut new = open();
        assert_eq!(new.progress(), reached(64));
        assert!(old.save(reached(128)).is_err(), "before its successor has saved");
        new.save(reached(256)).unwrap();
        assert!(old.save(reached(128)).is_err(), "and after");
        new.save(reached(512)).unwrap();
        assert_eq!(open().progress(), reached(512));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn without_a_file_all_that_the_log_holds_may_have_been_sent() {
        let folder = tempfile::tempdir().unwrap();
        let durable = Position { segment: 2, offset: 512 };
        let found = CheckpointFile::open(folder.path(), LOG, durable).unwrap().progress();
        assert_eq!(found, Progress { sent: Some(durable), ..Progress::default() });
        assert!(read_checkpoint(folder.path()).unwrap().is_none());
    }

    #[test]
    fn what_was_reached_in_another_log_is_nothing_in_this_one() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), Progress { reached: AT(3, 4096), ..Progress::default() });
        let (other, durable) = (Uuid::from_u128(8), Position { segment: 1, offset: 64 });
        let found = CheckpointFile::open(folder.path(), other, durable).unwrap().progress();
        assert_eq!(found, Progress { sent: Some(durable), ..Progress::default() });
        let said = read_checkpoint(folder.path()).unwrap().unwrap();
        assert_eq!((said.log_id, Some(said.position)), (LOG, AT(3, 4096)));
    }

    #[test]
    fn a_file_that_is_cut_or_altered_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            written(folder.path(), Progress { reached: AT(3, 4096), batch: None, sent: AT(3, 901_120) });
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            CheckpointFile::open(folder.path(), LOG, Position::default()).is_err()
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
            CheckpointFile::open(folder.path(), LOG, Position::default()).unwrap_err().to_string()
        };
        assert!(refusal("obleth checkpoint 2\n").contains("another version"));
        assert!(refusal("").contains("remove it"));
    }
}
