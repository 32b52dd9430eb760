//! Who may be in a block: a set of ids that is small because it may be wrong one way.
//!
//! A question about one tenant or key passes over most blocks by it. The set must never deny an id that is in it; that it
//! holds one that is not costs a look into the block.
//!
//! It is a Bloom filter with three bits an id. Its size in bytes is a power of two. An id's bits are three numbers of 16 bits,
//! modulo the bits there are: of the sum of the id's halves times [`SPREAD`] the highest, the next, and the one after that.

use uuid::Uuid;

/// Bits for each id; with 12 to 24 one question in fifty looks into a block in vain.
const BITS_EACH: usize = 12;
/// Bytes: a set that would need more holds too many for a block to be passed over.
const SIZES: (usize, usize) = (8, 512);
/// 2⁶⁴ divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The set of these ids.
pub(super) fn set_of(ids: &[Uuid]) -> Vec<u8> {
    let bytes = (ids.len() * BITS_EACH).div_ceil(8).next_power_of_two();
    let mut set = vec![0; bytes.clamp(SIZES.0, SIZES.1)];
    for (byte, bit) in ids.iter().flat_map(|id| places(*id, set.len())).collect::<Vec<_>>() {
        set[byte] |= bit;
    }
    set
}

/// Whether this id may be in the set. Of what is no set, any may be.
pub(super) fn may_have(set: &[u8], id: Uuid) -> bool {
    !set.len().is_power_of_two()
        || places(id, set.len()).iter().all(|(byte, bit)| set.get(*byte).is_none_or(|bits| bits & bit != 0))
}

/// Where an id's bits are: the byte and the bit in it.
fn places(id: Uuid, bytes: usize) -> [(usize, u8); 3] {
    let (high, low) = id.as_u64_pair();
    let spread = high.wrapping_add(low).wrapping_mul(SPREAD);
    [48, 32, 16].map(|shift| {
        let bit = (spread >> shift) as u16 as usize % (bytes * 8);
        (bit / 8, 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Uuid {
        Uuid::from_u64_pair(0x0192_c7f0_7f6a_7000, number)
    }

    #[test]
    fn what_is_in_the_set_is_never_denied() {
        for count in [0, 1, 5, 100, 3000] {
            let ids: Vec<_> = (0..count).map(|number| id(number * number)).collect();
            let set = set_of(&ids);
            assert!(set.len() <= SIZES.1);
            assert!(ids.iter().all(|id| may_have(&set, *id)), "{count}");
        }
    }

    #[test]
    fn most_of_what_is_not_in_the_set_is_denied() {
        let set = set_of(&(0..100).map(id).collect::<Vec<_>>());
        let wrong = (100..10_100).filter(|number| may_have(&set, id(*number))).count();
        assert!(wrong < 500, "{wrong} of 10,000");
    }

    #[test]
    fn a_set_of_another_making_denies_nobody() {
        assert!(may_have(&[], id(1)) && may_have(&[0; 3], id(1)));
    }
}
