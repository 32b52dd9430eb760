//! How often the heap was asked: the system's allocator with a count per thread.
//!
//! It exists because "allocates nothing once it is warm" is a claim like any other. It must never do anything but count
//! and pass on. The one file of this crate that may say `unsafe`: an allocator cannot be written without.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends there may be no place to count in, and nothing that is measured.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came, and its answer back as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Allocations of this thread while `work` ran.
pub(crate) fn of(work: impl FnOnce()) -> u64 {
    let before = ASKED.get();
    work();
    ASKED.get() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_counts_once_and_arithmetic_not_at_all() {
        assert_eq!(of(|| drop(std::hint::black_box(Box::new(1)))), 1);
        assert_eq!(of(|| assert_eq!(std::hint::black_box(1), 1)), 0);
    }
}
