//! A file as memory that outlives the process: mapped shared, and seen as words that threads may read and write at once.
//!
//! Nothing of a word that was stored is lost when the process dies, however it dies. It must never be handed out as
//! plain bytes: another thread, or another process, may be writing them. The one file of this crate that may say
//! `unsafe`: the kernel gives a mapping as a bare address.

#![allow(unsafe_code)]

use std::{fs::File, io, ptr::NonNull, slice, sync::atomic::AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// See the module's text. Dropping it takes the memory away; what was stored stays in the file.
#[derive(Debug)]
pub(crate) struct Mapping {
    first: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it owns its memory, which no other value points to, and gives it out only as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `words` words of a file that has them all on the disk: a hole in it, or an end before that, would
    /// be a signal at the first store instead of an error here.
    ///
    /// # Errors
    /// The kernel's; also if the file is shorter than that.
    pub(crate) fn new(file: &File, words: usize) -> io::Result<Self> {
        let length = words.checked_mul(8).filter(|length| *length > 0 && *length <= isize::MAX as usize);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so nothing that is in use is replaced.
        let address = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }?;
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, words })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is that long, aligned to a page, and lives as long as `self`. Any bits are a valid word.
        // Everybody in this process sees it through this function, so every access is atomic; folders of logs are
        // locked, so no other process writes it.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; borrows of it have ended with `self`. It fails only for a wrong address.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_and_outlives_the_mapping() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapping = Mapping::new(&file, 1024).unwrap();
        mapping.words()[1023].store(u64::from_ne_bytes(*b"outlives"), Ordering::Relaxed);
        drop(mapping);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(&bytes[8184..], b"outlives");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused_instead_of_killing_the_process_later() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Mapping::new(&file, 1024).is_err());
        assert!(Mapping::new(&file, 0).is_err());
        assert!(Mapping::new(&file, usize::MAX).is_err());
    }
}
