//! A gateway whose threads can be made to die or to stall, and whose wall clock steps, from outside: its clock is ours.
//!
//! It exists so that supervision is tested on the program as it is delivered. `clock.c` is built and loaded into the
//! gateway; an order names a thread, and the kernel has no time to tell it, once. Rust code panics of that.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use super::process::{Gateway, Setup, until};

/// What happens to a thread when it asks for the time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// There is none: a panic at the call counted from now on, 1 being the next.
    FailsAt(i32),
    /// It comes so many milliseconds late.
    Stalls(i32),
}

/// Orders to one gateway. See the module's text.
pub(crate) struct Clock {
    order: File,
    path: PathBuf,
    library: PathBuf,
    _folder: TempDir,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, library) = (folder.path().join("order"), folder.path().join("clock.so"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/clock.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let built = built.expect("a C compiler builds the faulty clock");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::write(&path, [0; 24]).unwrap();
        let order = File::options().read(true).write(true).open(&path).unwrap();
        Self { order, path, library, _folder: folder }
    }

    /// A gateway whose clock this is.
    pub(crate) fn given_to(&self, setup: Setup) -> Setup {
        setup.env("LD_PRELOAD", self.library.display()).env("FAULTY_CLOCK", self.path.display())
    }

    /// Orders a fault of the thread called `name`.
    pub(crate) fn order(&self, gateway: &Gateway, name: &str, fault: Fault) {
        let (calls, stall_ms) = match fault {
            Fault::FailsAt(call) => (call, 0),
            Fault::Stalls(ms) => (1, ms),
        };
        for (place, number) in [(4, calls), (8, stall_ms), (0, thread(gateway, name))] {
            self.order.write_all_at(&number.to_ne_bytes(), place).unwrap();
        }
    }

    /// From now on the gateway's wall clock is so many seconds ahead of ours.
    pub(crate) fn set_ahead(&self, seconds: i32) {
        self.order.write_all_at(&seconds.to_ne_bytes(), 16).unwrap();
    }

    /// So many seconds have passed since the gateway was started, beside those that really have: as if nobody had asked it
    /// anything for that long.
    pub(crate) fn pass(&self, seconds: i32) {
        self.order.write_all_at(&seconds.to_ne_bytes(), 20).unwrap();
    }

    /// How many faults have happened.
    pub(crate) fn faults(&self) -> i32 {
        let mut number = [0; 4];
        self.order.read_exact_at(&mut number, 12).unwrap();
        i32::from_ne_bytes(number)
    }
}

/// The kernel's number of the thread called `name`, once there is one.
fn thread(gateway: &Gateway, name: &str) -> i32 {
    let mut found = 0;
    until("the thread is there", || {
        let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().map(Result::unwrap);
        let called = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let thread = threads.into_iter().find(called);
        found = thread.map_or(0, |thread| thread.file_name().to_str().unwrap().parse().unwrap());
        found != 0
    });
    found
}
