//! The nodes that one call has tried, in one word.

/// The indices of the nodes that one call has tried.
///
/// Exact for up to three nodes, and for indices below 63. Otherwise indices share bits: a node that was not tried may
/// count as tried, but never the reverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriedNodes(u64);

/// Set if the other bits are a bitmap of the indices modulo 63. Clear if they are up to three indices plus one.
const IS_BITMAP: u64 = 1 << 63;

const NUMBER_BITS: u32 = 21;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

impl TriedNodes {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn contains(self, index: u32) -> bool {
        if self.0 & IS_BITMAP != 0 {
            return self.0 & bit(index) != 0;
        }
        let [first, second, third] = self.numbers();
        let number = number(index);
        first == number || second == number || third == number
    }

    #[must_use]
    pub(crate) const fn with(self, index: u32) -> Self {
        if self.0 & IS_BITMAP != 0 {
            return Self(self.0 | bit(index));
        }
        let [first, second, third] = self.numbers();
        if third == 0 {
            return Self(self.0 << NUMBER_BITS | number(index));
        }
        let known = bit_of(first) | bit_of(second) | bit_of(third);
        Self(IS_BITMAP | known | bit(index))
    }

    const fn numbers(self) -> [u64; 3] {
        [
            self.0 & NUMBER_MASK,
            self.0 >> NUMBER_BITS & NUMBER_MASK,
            self.0 >> (2 * NUMBER_BITS) & NUMBER_MASK,
        ]
    }
}

const fn number(index: u32) -> u64 {
    index as u64 % NUMBER_MASK + 1
}

const fn bit(index: u32) -> u64 {
    bit_of(number(index))
}

const fn bit_of(number: u64) -> u64 {
    1 << ((number - 1) % 63)
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_index_that_was_tried_is_known(indices in prop::collection::vec(0_u32..2_000_000, 0..20)) {
            let mut tried = TriedNodes::NONE;
            for (count, index) in indices.iter().enumerate() {
                if count < 3 {
                    prop_assert_eq!(tried.contains(*index), indices[..count].contains(index));
                }
                tried = tried.with(*index);
                prop_assert!(indices[..=count].iter().all(|index| tried.contains(*index)));
            }
        }

        #[test]
        fn the_first_63_indices_are_exact(indices in prop::collection::vec(0_u32..63, 0..80)) {
            let mut tried = TriedNodes::NONE;
            for (count, index) in indices.iter().enumerate() {
                if !tried.contains(*index) {
                    prop_assert!(!indices[..count].contains(index));
                    tried = tried.with(*index);
                }
                prop_assert!(tried.contains(*index));
            }
            prop_assert!((0..63).all(|index| tried.contains(index) == indices.contains(&index)));
        }
    }
}
