//! The data folder: the store's place, the lock, and the two secrets that may be generated.
//!
//! The folder is made 0700 and every file in it 0600. One process owns it at a time. A secret that the
//! operator gives wins and is never written here; one that is here is never overwritten.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use obleth_admin::MasterKey;
use obleth_policy::snapshot::Secret;
use rustix::fs::{FlockOperation, flock};

use crate::exit::{Exit, Failure};

/// Where the data lives when nobody says.
const DEFAULT: &str = "./obleth-data";
/// The file whose lock says that a process runs on this folder.
const LOCK: &str = "lock";
const ADMIN_TOKEN: &str = "admin-token";
const MASTER_KEY: &str = "master-key";

/// An owned data folder. On drop the lock goes, and a throw-away folder with everything in it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    throw_away: Option<tempfile::TempDir>,
    _lock: File,
}

/// The secrets that the sidecar needs.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    /// Opens the admin API.
    pub(crate) admin_token: Secret,
    /// Opens stored upstream credentials.
    pub(crate) master_key: MasterKey,
    /// Where the token lies, unless the operator gave it.
    pub(crate) token_file: Option<PathBuf>,
}

impl DataDir {
    /// Makes the folder if need be and takes its lock. A demo without `named` gets one that goes with it.
    ///
    /// # Errors
    /// 73 or 77 when it cannot be made or used, 75 when another process has it.
    pub(crate) fn open(named: Option<&Path>, demo: bool) -> Result<Self, Failure> {
        let (path, throw_away) = match (named, demo) {
            (Some(path), _) => (path.to_owned(), None),
            (None, false) => (PathBuf::from(DEFAULT), None),
            (None, true) => {
                let folder = tempfile::Builder::new()
                    .prefix("obleth-demo-")
                    .permissions(Permissions::from_mode(0o700))
                    .tempdir()
                    .map_err(|e| Failure::io(Exit::CantCreate, "cannot create a folder for the demo", &e))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| {
            Failure::io(Exit::CantCreate, format!("cannot create the data folder {}", path.display()), &error)
        })?;
        make_private(&path)?;
        let lock = lock(&path)?;
        Ok(Self { path, throw_away, _lock: lock })
    }

    /// The store's file, unless the configuration names another.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("obleth.db")
    }

    /// The embedded usage ledger.
    pub(crate) fn usage(&self) -> PathBuf {
        self.path.join("usage.db")
    }

    /// The usage log's folder, unless the configuration names another.
    pub(crate) fn wal(&self) -> PathBuf {
        self.path.join("wal")
    }

    /// The operator's secrets, else those in the folder, else fresh ones. `database` is the store that the
    /// master key is for.
    ///
    /// # Errors
    /// A file that others can read, that holds something else, or that cannot be written; a store whose master
    /// key is gone.
    pub(crate) fn secrets(
        &self,
        admin_token: Option<&Secret>,
        master_key: Option<&Secret>,
        database: &Path,
    ) -> Result<Secrets, Failure> {
        // The key first: what fails for it must not leave a token behind that nobody was told of.
        let key_file = self.path.join(MASTER_KEY);
        let key = match master_key {
            Some(given) => given.expose().to_owned(),
            None => match read_private(&key_file)? {
                Some(text) => text,
                None if database.exists() => {
                    let line = format!(
                        "the store {} exists, but its master key {} does not; \
                         restore it or set OBLETH_MASTER_KEY",
                        database.display(),
                        key_file.display()
                    );
                    return Err(Failure::new(Exit::Config, line));
                }
                None => self.write_private(MASTER_KEY, &MasterKey::generate().to_hex())?,
            },
        };
        let master_key = MasterKey::parse(&key)
            .map_err(|_| Failure::new(Exit::Config, format!("{} holds no master key", key_file.display())))?;
        let token_file = self.path.join(ADMIN_TOKEN);
        let token = match admin_token {
            Some(given) => given.expose().to_owned(),
            None => match read_private(&token_file)? {
                Some(text) => text,
                None => self.write_private(ADMIN_TOKEN, &obleth_admin::generate_token())?,
            },
        };
        let is_stored = admin_token.is_none();
        let admin_token = judged(&token_file, &token)?;
        Ok(Secrets { admin_token, master_key, token_file: is_stored.then_some(token_file) })
    }

    /// Removes a throw-away folder now, for an end that does not wait for drops.
    pub(crate) fn discard(mut self) {
        drop(self.throw_away.take());
    }

    /// A whole file or none: a crash in between leaves the old state.
    fn write_private(&self, name: &str, text: &str) -> Result<String, Failure> {
        let path = self.path.join(name);
        let draft = self.path.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            // A draft can only be left from a crash: the folder's lock is ours.
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&draft);
            Failure::io(Exit::CantCreate, format!("cannot write {}", path.display()), &error)
        })?;
        Ok(text.to_owned())
    }
}

/// The admin token that lies in a data folder, which a running process may have. Touches nothing.
///
/// # Errors
/// A file that others can read, or that holds something else.
pub(crate) fn stored_token(named: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let file = named.unwrap_or(Path::new(DEFAULT)).join(ADMIN_TOKEN);
    read_private(&file)?.map(|text| judged(&file, &text)).transpose()
}

fn judged(file: &Path, token: &str) -> Result<Secret, Failure> {
    let line = |why| format!("{} holds no admin token: {why}", file.display());
    crate::config::admin_token(token).map_err(|why| Failure::new(Exit::Config, line(why)))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::io(Exit::IoErr, format!("cannot use the data folder {}", path.display()), error)
}

/// Nobody else may write into the folder. An empty one is closed to others at once; one with something in it might
/// be somebody's home or `/tmp`, and is not touched: what is ours in it is closed file by file.
fn make_private(folder: &Path) -> Result<(), Failure> {
    let about = fs::metadata(folder).map_err(|error| unusable(folder, &error))?;
    if about.mode() & 0o077 == 0 {
        return Ok(());
    }
    let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    let owned = about.uid() == rustix::process::geteuid().as_raw();
    if owned && empty() {
        return fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(|error| unusable(folder, &error));
    }
    if about.mode() & 0o022 != 0 {
        let line = format!(
            "others can write into the data folder {0}; run: chmod 700 {0}, or name a new folder inside it",
            folder.display()
        );
        return Err(Failure::new(Exit::NoPerm, line));
    }
    Ok(())
}

/// Held as long as the file is open; the kernel lets go of it however the process ends.
fn lock(folder: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(LOCK))
        .map_err(|error| {
            Failure::io(Exit::CantCreate, format!("cannot lock {}", folder.display()), &error)
        })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let line = format!(
                "the data folder {} is in use by another obleth process; stop it, or use another --data-dir",
                folder.display()
            );
            Err(Failure::new(Exit::TempFail, line))
        }
        Err(error) => Err(unusable(folder, &error.into())),
    }
}

/// The text of a file that nobody else may read, if there is one.
fn read_private(path: &Path) -> Result<Option<String>, Failure> {
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::io(Exit::IoErr, format!("cannot read {}", path.display()), &error));
        }
    };
    if about.mode() & 0o077 != 0 {
        let line = format!("{0} is open to others; make a new secret, or run: chmod 600 {0}", path.display());
        return Err(Failure::new(Exit::NoPerm, line));
    }
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::io(Exit::IoErr, format!("cannot read {}", path.display()), &error))?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_is_private_and_secrets_are_made_once() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        let folder = DataDir::open(Some(&path), true).unwrap();
        let first = folder.secrets(None, None, &folder.database()).unwrap();
        assert_eq!(mode(&path), 0o700);
        for name in [ADMIN_TOKEN, MASTER_KEY, LOCK] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert_eq!(first.token_file, Some(path.join(ADMIN_TOKEN)));
        let second = folder.secrets(None, None, &folder.database()).unwrap();
        assert_eq!(second.admin_token, first.admin_token);
        assert!(second.master_key == first.master_key && second.token_file == first.token_file);
    }

    #[test]
    fn a_given_secret_wins_and_leaves_no_trace() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataDir::open(Some(home.path()), false).unwrap();
        let (token, key) = (Secret::new("0123456789abcdef"), Secret::new("ab".repeat(32)));
        let secrets = folder.secrets(Some(&token), Some(&key), &folder.database()).unwrap();
        assert_eq!((secrets.admin_token, secrets.token_file), (token, None));
        assert!(!home.path().join(ADMIN_TOKEN).exists() && !home.path().join(MASTER_KEY).exists());
    }

    #[test]
    fn a_second_process_is_told_so() {
        let home = tempfile::tempdir().unwrap();
        let _first = DataDir::open(Some(home.path()), false).unwrap();
        let line = DataDir::open(Some(home.path()), false).unwrap_err().to_string();
        assert!(line.contains("in use by another obleth process"), "{line}");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataDir::open(Some(home.path()), false).unwrap();
        folder.secrets(None, None, &folder.database()).unwrap();
        fs::set_permissions(home.path().join(MASTER_KEY), Permissions::from_mode(0o640)).unwrap();
        let line = folder.secrets(None, None, &folder.database()).unwrap_err().to_string();
        assert!(line.contains("chmod 600"), "{line}");
    }

    #[test]
    fn an_open_folder_is_closed_if_it_is_empty_and_never_if_it_may_be_anybodys() {
        let home = tempfile::tempdir().unwrap();
        let open = |bits| fs::set_permissions(home.path(), Permissions::from_mode(bits)).unwrap();
        let start = || DataDir::open(Some(home.path()), false).map(drop);
        open(0o777);
        start().unwrap();
        assert_eq!(mode(home.path()), 0o700);
        fs::write(home.path().join("letter"), "").unwrap();
        open(0o755);
        for _ in ["the first start", "the next"] {
            start().unwrap();
            assert_eq!(mode(home.path()), 0o755);
        }
        open(0o777);
        let line = start().unwrap_err().to_string();
        assert!(line.contains("chmod 700"), "{line}");
        assert_eq!(mode(home.path()), 0o777);
    }

    #[test]
    fn a_store_without_its_master_key_is_not_given_another() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataDir::open(Some(home.path()), false).unwrap();
        fs::write(folder.database(), "").unwrap();
        let line = folder.secrets(None, None, &folder.database()).unwrap_err().to_string();
        assert!(line.contains("OBLETH_MASTER_KEY"), "{line}");
        assert!(!home.path().join(MASTER_KEY).exists() && !home.path().join(ADMIN_TOKEN).exists());
    }

    #[test]
    fn a_demos_folder_goes_with_it() {
        let folder = DataDir::open(None, true).unwrap();
        let path = folder.path.clone();
        assert_eq!(mode(&path), 0o700);
        folder.secrets(None, None, &folder.database()).unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
