//! The allocator, and how a thread gives back what it keeps.

#![allow(unsafe_code)] // one call of C, below

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives to the system what this thread has freed. By itself the allocator does so only while the thread goes on
/// allocating, so one that has become quiet would keep what it had at its busiest.
pub(crate) fn give_back() {
    // SAFETY: It takes no pointer, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
