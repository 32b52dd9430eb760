//! The runtime of a shard: io_uring with ring flags chosen by measurement, epoll where it is not to be had.
//!
//! `SINGLE_ISSUER` with `DEFER_TASKRUN` lets the kernel finish work when the shard asks for completions
//! instead of interrupting it; kernels before 6.1 do not know it and get a plain ring. io_uring itself may be
//! forbidden (seccomp in containers, a sysctl), and then everything runs on epoll: slower, and the same.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Once,
};

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};
use obleth_link::Driver;

/// Entries of the submission ring; completions have twice as many. Too small a ring submits in pieces.
const RING_ENTRIES: u32 = 4096;

/// Builds the runtime on this thread and runs the future that `start` makes to its end. If that is a panic or an error,
/// what `bury` makes is run after it.
pub(crate) fn run<F, B>(
    force_epoll: bool,
    start: impl FnOnce(Driver) -> F,
    bury: impl FnOnce() -> B,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
    B: Future<Output = ()>,
{
    if !force_epoll && monoio::utils::detect_uring() {
        let mut tuned = io_uring::IoUring::builder();
        tuned.setup_single_issuer().setup_defer_taskrun();
        let ring = |flags| {
            RuntimeBuilder::<TimeDriver<IoUringDriver>>::new().with_entries(RING_ENTRIES).uring_builder(flags)
        };
        let built = ring(tuned).build().or_else(|_| ring(io_uring::IoUring::builder()).build());
        if let Ok(runtime) = built {
            return live(runtime, start(Driver::IoUring), bury);
        }
    }
    if !force_epoll {
        static SAID: Once = Once::new();
        SAID.call_once(|| tracing::warn!("io_uring is not to be had here; every core runs on epoll"));
    }
    let runtime = RuntimeBuilder::<TimeDriver<LegacyDriver>>::new().with_entries(RING_ENTRIES).build()?;
    live(runtime, start(Driver::Epoll), bury)
}

fn live<D, B>(
    mut runtime: Runtime<D>,
    life: impl Future<Output = io::Result<()>>,
    bury: impl FnOnce() -> B,
) -> io::Result<()>
where
    D: monoio::Driver,
    B: Future<Output = ()>,
{
    let lived = catch_unwind(AssertUnwindSafe(|| runtime.block_on(life)));
    if !matches!(lived, Ok(Ok(()))) {
        // Another panic changes nothing: what then remains stays until the process ends.
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(bury())));
    }
    lived.unwrap_or_else(|panic| resume_unwind(panic))
}
