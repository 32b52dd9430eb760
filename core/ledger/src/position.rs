//! A place in the log, between two notes.

use std::{fmt, str::FromStr};

/// Where a note of the log begins, or the last one ends. Later places compare greater; a place is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment; a start of the process begins a new one.
    pub segment: u64,
    /// Bytes from the segment's beginning.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// It is not `segment:offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (segment, offset) = text.split_once(':').ok_or(NoPosition)?;
        let number = |text: &str| text.parse().map_err(|_| NoPosition);
        Ok(Self { segment: number(segment)?, offset: number(offset)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_later_ones_are_greater() {
        let position = Position { segment: 3, offset: 4096 };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert!(Position { segment: 4, offset: 0 } > position);
        assert_eq!("3".parse::<Position>(), Err(NoPosition));
        assert_eq!("3:x".parse::<Position>(), Err(NoPosition));
    }
}
