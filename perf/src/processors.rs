//! Who runs on which processor: what is measured has one to itself, load and backend share the others.
//!
//! A generator on the measured processor would count as the gateway's queueing.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of each part of a measurement; none of the lists is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// What is measured: one processor, or two where shards are compared.
    pub(crate) subject: Vec<usize>,
    /// The generator.
    pub(crate) load: Vec<usize>,
    /// The simulated backend.
    pub(crate) backend: Vec<usize>,
}

impl Placement {
    /// The first `subjects` of `allowed` for what is measured, the next for the load, the next for the backend. Where
    /// there are too few, the last ones are shared; where there is none beside the subjects, all are.
    pub(crate) fn among(allowed: &[usize], subjects: usize) -> Self {
        if allowed.len() <= subjects {
            let all = allowed.to_vec();
            return Self { subject: all.clone(), load: all.clone(), backend: all };
        }
        let last = allowed.last().copied().unwrap_or_default();
        let at = |index: usize| vec![allowed.get(index).copied().unwrap_or(last)];
        let subject = allowed.iter().copied().take(subjects).collect();
        Self { subject, load: at(subjects), backend: at(subjects + 1) }
    }
}

/// The processors this thread may use. Ask before the first [`pin`].
///
/// # Errors
/// The kernel does not say.
pub(crate) fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("which processors are allowed?")?;
    Ok((0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect())
}

/// Keeps this thread, and what it spawns from now on, on these processors.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn pin(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    processors.iter().for_each(|processor| set.set(*processor));
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to {processors:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_shares_its_processor_only_where_there_is_no_other() {
        let place = |allowed: &[usize], subjects| {
            let Placement { subject, load, backend } = Placement::among(allowed, subjects);
            (subject, load, backend)
        };
        assert_eq!(place(&[2, 5, 7, 9], 1), (vec![2], vec![5], vec![7]));
        assert_eq!(place(&[2, 5, 7, 9], 2), (vec![2, 5], vec![7], vec![9]));
        assert_eq!(place(&[0, 1], 1), (vec![0], vec![1], vec![1]));
        assert_eq!(place(&[0, 1], 2), (vec![0, 1], vec![0, 1], vec![0, 1]));
        assert_eq!(place(&[3], 1), (vec![3], vec![3], vec![3]));
    }
}
