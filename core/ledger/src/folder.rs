//! The folder of a log: which files it has, whose it is, and the lock that keeps a second process out.
//!
//! A folder that another version, another node or another program wrote is refused with what to do about it. It must
//! never be changed before that is known.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::Errno,
};
use uuid::Uuid;

/// The version of everything in the folder. Another one means another layout somewhere.
pub const FORMAT: u32 = 1;

const META: &str = "log.meta";
const NEW_META: &str = "log.meta.new";
const REMEDY: &str =
    "point OBLETH_WAL_DIR at an empty folder, or start the version and node that wrote it to drain it";

/// Why a log cannot be opened. Nothing that it holds was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk, or who may use it.
    #[error("the usage log cannot use {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the usage log in {dir} is in use by another process; give every gateway a folder of its own")]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// Another version wrote it.
    #[error("the usage log in {dir} has format {found}, this version reads {FORMAT}: {REMEDY}")]
    Version {
        /// The folder.
        dir: PathBuf,
        /// What stands there.
        found: u32,
    },
    /// Another node wrote it.
    #[error(
        "the usage log in {dir} belongs to node {found:?}, this is node {ours:?}: set OBLETH_NODE={found}, or point \
         OBLETH_WAL_DIR at an empty folder once this one is drained"
    )]
    Node {
        /// The folder.
        dir: PathBuf,
        /// What stands there.
        found: String,
        /// What this one is called.
        ours: String,
    },
    /// There are files with the names of a log's that are not this log's.
    #[error("{path} is not part of this usage log ({why}): {REMEDY}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting that cannot be.
    #[error("the usage log cannot have {0}")]
    Setting(&'static str),
}

/// A locked folder that is ours.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) node: Arc<str>,
    pub(crate) log_id: Uuid,
    /// The lock is held while this is open.
    handle: File,
}

/// Names the file in an error.
pub(crate) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, OpenError> {
    result.map_err(|source| OpenError::Io { path: path.to_owned(), source })
}

impl Folder {
    /// Locks the folder, makes it a log's if it is empty, and checks whose it is. It says what the node is called if nobody
    /// else does; a new one is the default node's then.
    pub(crate) fn open(dir: &Path, node: Option<&str>, default_node: &str) -> Result<Self, OpenError> {
        let name = node.unwrap_or(default_node);
        if name.is_empty() || name.contains('\n') {
            return Err(OpenError::Setting("a node without a name, or one of two lines"));
        }
        at(dir, fs::DirBuilder::new().recursive(true).mode(0o700).create(dir))?;
        let handle = at(dir, File::open(dir))?;
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            other => at(dir, other.map_err(io::Error::from))?,
        }
        let path = dir.join(META);
        let (node, log_id) = match fs::read_to_string(&path) {
            Ok(text) => check(dir, &text, node)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (name.into(), found(dir, name, &handle)?)
            }
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        Ok(Self { dir: dir.to_owned(), node, log_id, handle })
    }

    /// Makes new names and removed ones durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.log"))
    }

    /// Where a segment stands before it has its number.
    pub(crate) fn spare(&self) -> PathBuf {
        self.dir.join("spare.log")
    }

    pub(crate) fn slate(&self, stream: u32) -> PathBuf {
        self.dir.join(format!("stream-{stream:04}.slate"))
    }

    /// Where a slate is made before it takes the place of an older one.
    pub(crate) fn new_slate(&self, stream: u32) -> PathBuf {
        self.dir.join(format!("stream-{stream:04}.slate.new"))
    }

    /// Numbers of all segments, ascending.
    pub(crate) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = numbered(&self.dir, "", ".log", 20)?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Streams that have a slate, ascending.
    pub(crate) fn slates(&self) -> io::Result<Vec<u32>> {
        let numbers = numbered(&self.dir, "stream-", ".slate", 4)?;
        let mut streams: Vec<_> =
            numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
        streams.sort_unstable();
        Ok(streams)
    }
}

/// How files are made and written: they say who asked for what, and are nobody else's to read.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Gives a file its whole size, zeros with a place of their own on the disk.
pub(crate) fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, bytes),
        other => Ok(other?),
    }
}

/// Sees to it that a file has a place on the disk for all of itself, as one that was copied may not. What is in it stays.
pub(crate) fn keep_room(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    // Some file systems want room for what is there already.
    if meta.blocks() * 512 >= meta.len() {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, meta.len()) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// For file systems that give no other promise.
fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let piece = zeros.len().min((bytes - at) as usize);
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// Reads `obleth usage log, format 1`, `node …`, `log …`, one line each.
fn check(dir: &Path, text: &str, node: Option<&str>) -> Result<(Arc<str>, Uuid), OpenError> {
    let foreign = || OpenError::Foreign { path: dir.join(META), why: "it cannot be read" };
    let mut lines = text.lines();
    let mut value = |name| lines.next().and_then(|line| line.strip_prefix(name)).ok_or_else(foreign);
    let found: u32 = value("obleth usage log, format ")?.parse().map_err(|_| foreign())?;
    if found != FORMAT {
        return Err(OpenError::Version { dir: dir.to_owned(), found });
    }
    let found = value("node ")?;
    if let Some(ours) = node.filter(|node| *node != found) {
        return Err(OpenError::Node { dir: dir.to_owned(), found: found.to_owned(), ours: ours.to_owned() });
    }
    Ok((found.into(), value("log ")?.parse().map_err(|_| foreign())?))
}

/// Begins a log in a folder that has none.
fn found(dir: &Path, node: &str, handle: &File) -> Result<Uuid, OpenError> {
    let strays = [at(dir, numbered(dir, "", ".log", 20))?, at(dir, numbered(dir, "stream-", ".slate", 4))?];
    if strays.iter().any(|strays| !strays.is_empty()) {
        return Err(OpenError::Foreign {
            path: dir.join(META),
            why: "there are segments, but it is missing",
        });
    }
    let mut random = [0; 16];
    let drawn = getrandom::fill(&mut random).map_err(|_| io::Error::other("there is no randomness"));
    at(dir, drawn)?;
    let log_id = uuid::Builder::from_random_bytes(random).into_uuid();
    let write = || {
        let mut file = private().create(true).truncate(true).open(dir.join(NEW_META))?;
        write!(file, "obleth usage log, format {FORMAT}\nnode {node}\nlog {log_id}\n")?;
        file.sync_all()?;
        fs::rename(dir.join(NEW_META), dir.join(META))?;
        handle.sync_all()?;
        // The folder may be new as well.
        File::open(dir.join(".."))?.sync_all()
    };
    at(&dir.join(META), write())?;
    Ok(log_id)
}

fn numbered(dir: &Path, before: &str, after: &str, digits: usize) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(before)?.strip_suffix(after));
        numbers.extend(
            number.filter(|number| number.len() == digits).and_then(|number| number.parse::<u64>().ok()),
        );
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_take_a_place_on_the_disk_of_exactly_their_size() {
        let file = tempfile::tempfile().unwrap();
        write_zeros(&file, (1 << 20) + 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
    }
}
