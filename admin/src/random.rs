//! Everything that comes from the operating system's random source: tokens, key secrets, ids.
//!
//! It must never fall back to another source: without the kernel's there is nothing safe to hand out.

use obleth_policy::unit::UnixMs;
use uuid::{Builder, Uuid};

/// `N` random bytes.
///
/// # Panics
/// When the kernel has no random source; nothing that needs one may go on then.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    if let Err(fault) = getrandom::fill(&mut out) {
        panic!("the kernel gives no random bytes: {fault}");
    }
    out
}

/// Bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A fresh admin token: `obleth_admin_` and 48 hex digits (24 random bytes).
#[must_use]
pub fn generate_token() -> String {
    format!("obleth_admin_{}", hex(&bytes::<24>()))
}

/// A fresh key secret: `sk_` and 48 lower-case hex digits (24 random bytes).
#[must_use]
pub fn generate_key_secret() -> String {
    format!("sk_{}", hex(&bytes::<24>()))
}

/// A UUIDv7 (RFC 9562 §5.7) of this moment, for things whose order does not matter.
pub(crate) fn fresh_id(now: UnixMs) -> Uuid {
    Builder::from_unix_timestamp_millis(now.0.unsigned_abs(), &bytes()).into_uuid()
}

/// Makes UUIDv7 ids that only grow, also within a millisecond and when the clock is set back: lists are
/// ordered by them. Owned by the store's thread.
#[derive(Debug, Default)]
pub(crate) struct IdMint {
    ms: u64,
    counter: u16,
}

impl IdMint {
    /// Ids of this mint come after `id`, which an earlier process made.
    pub(crate) fn after(id: Uuid) -> Self {
        let ms = id.as_bytes()[..6].iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte));
        Self { ms: ms.saturating_add(1), counter: 0 }
    }

    /// The next id.
    pub(crate) fn next(&mut self, now: UnixMs) -> Uuid {
        let now = now.0.unsigned_abs();
        if now > self.ms {
            (self.ms, self.counter) = (now, 0);
        } else if self.counter == 0xfff {
            (self.ms, self.counter) = (self.ms.saturating_add(1), 0);
        } else {
            self.counter += 1;
        }
        // RFC 9562 §6.2, method 1: the twelve bits behind the version are the counter.
        let mut rest = bytes::<10>();
        [rest[0], rest[1]] = self.counter.to_be_bytes();
        Builder::from_unix_timestamp_millis(self.ms, &rest).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_the_shape_that_the_contract_prints() {
        let (key, token) = (generate_key_secret(), generate_token());
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        assert!(key.len() == 51 && key.starts_with("sk_") && is_hex(&key[3..]));
        assert!(token.len() == 61 && token.starts_with("obleth_admin_") && is_hex(&token[13..]));
        assert_ne!(key, generate_key_secret());
    }

    #[test]
    fn ids_only_grow_whatever_the_clock_does() {
        let mut mint = IdMint::default();
        let times = [5_i64, 5, 4, 6].into_iter().chain(std::iter::repeat_n(6, 10_000)).chain([1]);
        let ids: Vec<_> = times.map(|ms| mint.next(UnixMs(ms))).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let last = *ids.last().unwrap();
        assert!(IdMint::after(last).next(UnixMs(0)) > last);
    }
}
