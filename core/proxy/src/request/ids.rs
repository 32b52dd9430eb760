//! Ids: a fresh UUIDv7 for each request, which the ledger knows it by, and the request id that the client knows it by:
//! the caller's own where it is fit to be passed on, else the same UUID.
//!
//! Request ids tie a client's log line to ours; they are neither unique (clients repeat theirs) nor secret.

use std::{cell::Cell, fmt, io};

use obleth_ledger::Text;
use obleth_policy::unit::UnixMs;
use uuid::Uuid;

/// The longest id that is taken over from a caller.
const MAX_LEN: usize = 128;

/// An id of visible ASCII characters.
#[derive(Debug)]
pub(crate) struct RequestId(Text);

impl RequestId {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// As the ledger has it.
    pub(crate) const fn text(&self) -> &Text {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Whether a caller's text may stand in logs, headers and records.
pub(super) fn is_fit(text: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// Makes ids for one shard. Seeded by the operating system; then a splitmix64, because an id per request is
/// not worth a system call.
#[derive(Debug)]
pub(crate) struct RequestIds {
    state: Cell<u64>,
    salt: u64,
}

impl RequestIds {
    pub(crate) fn new() -> io::Result<Self> {
        let seed = || getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
        Ok(Self { state: Cell::new(seed()?), salt: seed()? })
    }

    /// An id of the request's own, and the caller's if it is fit, else the same as text.
    pub(crate) fn of(&self, theirs: Option<&[u8]>, now: UnixMs) -> (Uuid, RequestId) {
        let fresh = self.fresh(now);
        let theirs = theirs.filter(|id| is_fit(id)).and_then(|id| str::from_utf8(id).ok());
        let text = match theirs {
            Some(id) => Text::new(id),
            None => Text::new(fresh.hyphenated().encode_lower(&mut [0; uuid::fmt::Hyphenated::LENGTH])),
        };
        (fresh, RequestId(text))
    }

    fn fresh(&self, now: UnixMs) -> Uuid {
        let words = u128::from(self.next()) | u128::from(self.next()) << 64;
        let [random @ .., _, _, _, _, _, _] = words.to_le_bytes();
        let millis = u64::try_from(now.0).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31) ^ self.salt
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_fit_id_is_taken_over_and_an_unfit_one_replaced() {
        let ids = RequestIds::new().unwrap();
        let of = |theirs: &[u8]| ids.of(Some(theirs), UnixMs(1)).1.to_string();
        assert_eq!(of(b"trace-42"), "trace-42");
        for unfit in [&b""[..], b"a b", b"a\x00", "ü".as_bytes(), &[b'x'; 129]] {
            assert_eq!(of(unfit).len(), 36);
        }
    }

    #[test]
    fn fresh_ids_are_uuid_v7_and_differ() {
        let ids = RequestIds::new().unwrap();
        let made: HashSet<_> =
            (0..10_000).map(|_| ids.of(None, UnixMs(1_700_000_000_000)).1.to_string()).collect();
        assert_eq!(made.len(), 10_000);
        for id in made {
            let parsed: uuid::Uuid = id.parse().unwrap();
            assert_eq!(parsed.get_version_num(), 7);
        }
    }
}
