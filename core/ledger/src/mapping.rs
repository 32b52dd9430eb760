//! A file as memory that outlives the process: mapped shared, and seen as words that threads may read and write at once.
//!
//! Nothing of a word that was stored is lost when the process dies, however it dies. It must never be handed out as
//! plain bytes: another thread, or another process, may be writing them. The one file of this crate that may say
//! `unsafe`: the kernel gives a mapping as a bare address.

#![allow(unsafe_code)]

use std::{fs::File, io, ptr::NonNull, slice, sync::atomic::AtomicU64};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

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

    /// Takes its pages out of this process. They are the file's, and remain: whoever looks or stores next finds them there,
    /// at the price of a fault. Others may store at the same time.
    pub(crate) fn let_go(&self) {
        // SAFETY: exactly what `new` mapped. A page of a file that is mapped shared is not emptied by this: what was stored
        // is in the file, and it is the file that is mapped again. Where the kernel refuses, everything stays as it is.
        let _ = unsafe { madvise(self.first.as_ptr().cast(), self.words * 8, Advice::LinuxDontNeed) };
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
    use std::{io::Read, sync::atomic::Ordering, thread};

    use super::*;

    /// What of a mapping counts as this process's memory.
    fn resident_kib(mapping: &Mapping) -> u64 {
        let begins = format!("{:x}-", mapping.first.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begins));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

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
    fn memory_that_was_let_go_is_not_the_process_s_any_more_and_nothing_is_lost() {
        const WORDS: usize = 1 << 16;
        let file = tempfile::tempfile().unwrap();
        file.set_len(WORDS as u64 * 8).unwrap();
        let mapping = Mapping::new(&file, WORDS).unwrap();
        mapping.words().iter().zip(0..).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        assert_eq!(resident_kib(&mapping), WORDS as u64 * 8 / 1024);
        mapping.let_go();
        assert_eq!(resident_kib(&mapping), 0);
        assert!(mapping.words().iter().zip(0..).all(|(word, value)| word.load(Ordering::Relaxed) == value));
    }

    #[test]
    fn memory_may_be_let_go_while_others_store() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapping = Mapping::new(&file, 1024).unwrap();
        let words = mapping.words();
        thread::scope(|scope| {
            let storing = scope.spawn(|| {
                for value in 1..200_000 {
                    assert_eq!(words[700].load(Ordering::Relaxed), value - 1);
                    words[700].store(value, Ordering::Relaxed);
                }
            });
            while !storing.is_finished() {
                mapping.let_go();
            }
        });
        assert_eq!(words[700].load(Ordering::Relaxed), 199_999);
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
