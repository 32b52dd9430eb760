//! A disk that is full, or that nobody may write to. These need a file system of their own, and so the right to mount one.

use std::{fs, path::Path, process::Command};

use obleth_ledger::{Kind, OpenError, Opened, Options, Position, open};
use tempfile::TempDir;

use crate::{
    alone,
    sample::{light_dir, options, record},
    shipped,
};

/// A file system of a megabyte in memory, which is gone with this.
struct Small(TempDir);

impl Small {
    /// `None`, and a word about it, where that is not allowed.
    fn mount() -> Option<Self> {
        let dir = light_dir();
        let is_mounted = mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], dir.path());
        if !is_mounted {
            eprintln!("skipped: a small file system cannot be mounted here; run this as root");
        }
        is_mounted.then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let full = fs::write(self.path().join("filler"), vec![1; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What still holds a file of it keeps it until then.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn mount(how: &[&str], at: &Path) -> bool {
    Command::new("mount").args(how).arg(at).status().is_ok_and(|status| status.success())
}

/// Notes so many more.
fn note(log: &Opened, numbers: std::ops::Range<u128>) {
    numbers.for_each(|number| assert!(log.slates[0].note(Kind::End, &record(number))));
}

#[test]
fn a_full_disk_loses_nothing_while_the_slates_have_room_and_all_of_it_is_written_when_the_disk_has() {
    let _alone = alone();
    let Some(disk) = Small::mount() else { return };
    let mut log = open(Options { max_bytes: 2 << 20, ..options(disk.path()) }).unwrap();
    disk.fill();
    let mut noted = 0;
    // The segment has its room already; then a write goes half through, and is tried again and again.
    while log.writer.round().is_ok() {
        note(&log, noted..noted + 200);
        noted += 200;
    }
    let durable = log.tail.durable();
    assert_eq!(log.writer.round().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(log.tail.durable(), durable, "nothing is said to be durable that is not");
    let in_slate = (noted..).find(|number| !log.slates[0].note(Kind::End, &record(*number))).unwrap();
    assert_eq!(log.tail.figures().lost, 1);
    disk.empty();
    assert!(log.writer.round().unwrap());
    log.writer.round().unwrap();
    assert_eq!(shipped(&log, Position::default()), (0..in_slate).collect::<Vec<_>>());
    drop(log);
    let log = open(options(disk.path())).unwrap();
    assert_eq!(shipped(&log, Position::default()), (0..in_slate).collect::<Vec<_>>());
    assert_eq!((log.recovered.torn, log.recovered.corrupt), (0, 0));
}

#[test]
fn a_process_that_dies_on_a_full_disk_loses_nothing_either() {
    let _alone = alone();
    let Some(disk) = Small::mount() else { return };
    let mut log = open(options(disk.path())).unwrap();
    disk.fill();
    let mut noted = 0;
    while log.writer.round().is_ok() {
        note(&log, noted..noted + 200);
        noted += 200;
    }
    drop(log);
    assert!(matches!(open(options(disk.path())), Err(OpenError::Io { .. })), "the disk is still full");
    disk.empty();
    let log = open(options(disk.path())).unwrap();
    assert_eq!(shipped(&log, Position::default()), (0..noted).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_refused_by_name_and_keeps_what_it_has() {
    let _alone = alone();
    let Some(disk) = Small::mount() else { return };
    let log = open(options(disk.path())).unwrap();
    note(&log, 0..3);
    drop(log);
    assert!(mount(&["-o", "remount,ro"], disk.path()));
    let error = open(options(disk.path())).unwrap_err();
    let path = disk.path().display().to_string();
    assert!(error.to_string().contains(&path) && error.to_string().contains("Read-only"), "{error}");
    assert!(mount(&["-o", "remount,rw"], disk.path()));
    assert_eq!(shipped(&open(options(disk.path())).unwrap(), Position::default()), [0, 1, 2]);
}
