//! Where a list of rows goes on: an opaque text that is good for one question only.
//!
//! It holds the place of the last row, the range, so that a list that was asked for without one does not move from
//! page to page, and a digest of the filters. It is no secret and grants nothing.

use std::fmt;

use obleth_policy::unit::UnixMs;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::report::Scope;
use crate::random;

/// Bytes of a cursor: three times, an id and a digest.
const BYTES: usize = 8 + 8 + 8 + 16 + 8;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(super) from: UnixMs,
    pub(super) to: UnixMs,
    /// Of the last row that was shown.
    pub(super) place: (UnixMs, Uuid),
    filters: u64,
}

impl Cursor {
    /// Behind the row at this place of the list.
    pub(crate) fn new(scope: &Scope, place: (UnixMs, Uuid)) -> Self {
        Self { from: scope.from, to: scope.to, place, filters: digest(scope) }
    }

    /// Whether it is from a list of this range with these filters.
    pub(super) fn is_of(&self, scope: &Scope) -> bool {
        (self.from, self.to, self.filters) == (scope.from, scope.to, digest(scope))
    }

    /// What [`fmt::Display`] wrote; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let number = |at: usize| u64::from_str_radix(text.get(at..at + 16)?, 16).ok();
        let time = |at: usize| number(at).map(|number| UnixMs(number.cast_signed()));
        let id = Uuid::from_u64_pair(number(48)?, number(64)?);
        Some(Self { from: time(0)?, to: time(16)?, place: (time(32)?, id), filters: number(80)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ts, id) = self.place;
        write!(f, "{:016x}{:016x}{:016x}{}", self.from.0, self.to.0, ts.0, random::hex(id.as_bytes()))?;
        write!(f, "{:016x}", self.filters)
    }
}

/// The same for the same filters in any order.
fn digest(scope: &Scope) -> u64 {
    let mut filters: Vec<_> = scope.filters.iter().collect();
    filters.sort_by_key(|filter| filter.column());
    let mut hash = Sha256::new();
    for filter in filters {
        let cell = format!("{:?}", filter.cell());
        hash.update(format!("{} {} {cell}\n", filter.column(), cell.len()));
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::report::Filter;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let scope = Scope { from: UnixMs(-5), to: UnixMs(1 << 40), filters: vec![Filter::Status(200)] };
        let cursor = Cursor::new(&scope, (UnixMs(7), Uuid::from_u128(u128::MAX / 3)));
        let text = cursor.to_string();
        assert_eq!(Cursor::parse(&text), Some(cursor));
        for none in ["", "7", &text[1..], &text.replace('0', "g"), &format!("+{}", &text[1..])] {
            assert_eq!(Cursor::parse(none), None, "{none}");
        }
    }

    #[test]
    fn a_cursor_knows_its_question() {
        let (model, status) = (Filter::Model("m".into()), Filter::Status(200));
        let scope = |filters: &[&Filter], to: i64| Scope {
            from: UnixMs(0),
            to: UnixMs(to),
            filters: filters.iter().map(|filter| (*filter).clone()).collect(),
        };
        let cursor = Cursor::new(&scope(&[&model, &status], 9), (UnixMs(7), Uuid::nil()));
        assert!(cursor.is_of(&scope(&[&status, &model], 9)));
        assert!(!cursor.is_of(&scope(&[&status, &model], 10)));
        assert!(!cursor.is_of(&scope(&[&status], 9)));
        assert!(!cursor.is_of(&scope(&[&status, &Filter::Group("m".into())], 9)));
    }
}
