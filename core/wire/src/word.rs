//! Short text looked at eight bytes at a time, in one machine word.
//!
//! Names, header lines and values are mostly shorter than it takes to set a vector search up, and longer than a look at
//! every byte is cheap. It must never read past the text, and must say what a look at every byte would.

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = EACH << 7;

/// Marks, by its high bit, each byte of `word` that is below `limit`, which is at most 0x80.
///
/// The subtraction sets the bit where the byte was smaller. A borrow can set it, too, but only behind a byte that is
/// marked rightly: the lowest mark is exact, and so is the lowest of several calls' marks together.
#[inline]
pub(crate) const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & HIGH
}

/// Marks each byte that is `byte`, which is below 0x80; as exact as [`below`].
#[inline]
pub(crate) const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ each(byte), 1)
}

/// A word of which every byte is `byte`.
#[inline]
pub(crate) const fn each(byte: u8) -> u64 {
    EACH.wrapping_mul(byte as u64)
}

/// Length of the run at the start of `bytes` in which no byte is marked. `marks` and `is_marked` must say the same, of
/// the first byte of a word that is marked at all.
#[inline]
pub(crate) fn run(bytes: &[u8], marks: impl Fn(u64) -> u64, is_marked: impl Fn(u8) -> bool) -> usize {
    // The sums below are offsets into `bytes`: they cannot wrap, and a check of each would cost as much as the search.
    let (words, tail) = bytes.as_chunks();
    let mut run = 0_usize;
    for word in words {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return run.wrapping_add((found.trailing_zeros() / 8) as usize);
        }
        run = run.wrapping_add(word.len());
    }
    run.wrapping_add(tail.iter().position(|&byte| is_marked(byte)).unwrap_or(tail.len()))
}

/// The place of the first byte that ends a line or a text for somebody: CR, LF or NUL.
#[inline]
pub(crate) fn line_break(bytes: &[u8]) -> Option<usize> {
    let mut from = 0_usize;
    loop {
        let rest = bytes.get(from..)?;
        // Hardly another byte is as low: few are looked at twice.
        let at = from.wrapping_add(run(rest, |word| below(word, b'\r' + 1), |byte| byte <= b'\r'));
        match bytes.get(at)? {
            b'\r' | b'\n' | 0 => return Some(at),
            _ => from = at.wrapping_add(1),
        }
    }
}

/// Whether every byte is a visible ASCII character: no space, no control byte, nothing above.
#[inline]
pub(crate) fn is_visible(bytes: &[u8]) -> bool {
    let marks = |word| below(word, b'!') | equal(word, 0x7F) | (word & HIGH);
    run(bytes, marks, |byte| !byte.is_ascii_graphic()) == bytes.len()
}

/// The first and the last eight bytes of `text` in lower case, ASCII letters only; of shorter text two halves that
/// overlap. With the length this is all of a text of up to 16 bytes.
#[inline]
pub(crate) fn lower_ends(text: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return (lower(u64::from_le_bytes(*first)), lower(u64::from_le_bytes(*last)));
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return (lower(u32::from_le_bytes(*first).into()), lower(u32::from_le_bytes(*last).into()));
    }
    let short = text.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (lower(short), 0)
}

/// Each byte of the word in lower case, if it is an ASCII letter. Nothing is carried from byte to byte: without its
/// high bit a byte and less than 0x80 stay below 0x100.
#[inline]
fn lower(word: u64) -> u64 {
    let low = word & !HIGH;
    let from_a = low.wrapping_add(each(0x80 - b'A'));
    let past_z = low.wrapping_add(each(0x80 - b'Z' - 1));
    word | ((from_a & !past_z & !word & HIGH) >> 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{below, equal, is_visible, line_break, lower_ends, run};

    /// Text in which the bytes at the edges of what is looked for are as frequent as ordinary ones.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let edges = prop::sample::select(b"\0\x01\t\n\x0B\r\x0E\x1F !\"\\~\x7F\x80\x8A\x8D\xFF".as_slice());
        prop::collection::vec(prop_oneof![9 => Just(b'x'), 1 => edges, 1 => any::<u8>()], 0..60)
    }

    proptest! {
        #[test]
        fn a_line_breaks_where_a_look_at_every_byte_says(bytes in text()) {
            let expected = bytes.iter().position(|byte| [b'\r', b'\n', 0].contains(byte));
            prop_assert_eq!(line_break(&bytes), expected);
        }

        #[test]
        fn text_is_visible_if_every_byte_is(bytes in text()) {
            prop_assert_eq!(is_visible(&bytes), bytes.iter().all(u8::is_ascii_graphic));
            let visible: Vec<u8> = bytes.into_iter().filter(u8::is_ascii_graphic).collect();
            prop_assert!(is_visible(&visible));
        }

        #[test]
        fn the_ends_of_text_are_those_of_its_lower_case(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let lower = bytes.to_ascii_lowercase();
            prop_assert_eq!(lower_ends(&bytes), lower_ends(&lower));
            let alike = |other: &[u8]| other.len() == lower.len() && lower_ends(other) == lower_ends(&lower);
            for at in 0..lower.len().min(16) {
                let mut other = lower.clone();
                other[at] ^= 0x80;
                prop_assert!(lower.len() > 16 || !alike(&other), "byte {} counts", at);
            }
        }

        #[test]
        fn a_run_ends_at_the_first_byte_that_is_marked(bytes in text(), limit in 0..=0x80_u8, other in 0..0x80_u8) {
            let marked = |byte: u8| byte < limit || byte == other;
            let found = run(&bytes, |word| below(word, limit) | equal(word, other), marked);
            prop_assert_eq!(found, bytes.iter().position(|&byte| marked(byte)).unwrap_or(bytes.len()));
        }
    }

    #[test]
    fn every_byte_is_judged_alike_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[at] = byte;
                assert_eq!(is_visible(&bytes), byte.is_ascii_graphic(), "{byte:#x} at {at}");
                let breaks = matches!(byte, b'\r' | b'\n' | 0).then_some(at);
                assert_eq!(line_break(&bytes), breaks, "{byte:#x} at {at}");
            }
        }
    }
}
