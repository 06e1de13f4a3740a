//! The nodes that one call has tried, in one word.

/// A set of slots. Exact for up to three of them, and for those below 63; further ones share bits, so a node that
/// was not tried may be passed over, but none that was tried is taken for a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriedSlots(u64);

/// Set if the other bits are one for each slot, modulo 63. Clear if they are up to three numbers of slots, plus one.
const IS_BITMAP: u64 = 1 << 63;

const NUMBER_BITS: u32 = 21;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

impl TriedSlots {
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

    pub(crate) const fn contains(self, slot: u32) -> bool {
        if self.0 & IS_BITMAP != 0 {
            return self.0 & bit(slot) != 0;
        }
        let [first, second, third] = self.numbers();
        let number = number(slot);
        first == number || second == number || third == number
    }

    #[must_use]
    pub(crate) const fn with(self, slot: u32) -> Self {
        if self.0 & IS_BITMAP != 0 {
            return Self(self.0 | bit(slot));
        }
        let [first, second, third] = self.numbers();
        if third == 0 {
            return Self(self.0 << NUMBER_BITS | number(slot));
        }
        let known = bit_of(first) | bit_of(second) | bit_of(third);
        Self(IS_BITMAP | known | bit(slot))
    }

    const fn numbers(self) -> [u64; 3] {
        [
            self.0 & NUMBER_MASK,
            self.0 >> NUMBER_BITS & NUMBER_MASK,
            self.0 >> (2 * NUMBER_BITS) & NUMBER_MASK,
        ]
    }
}

const fn number(slot: u32) -> u64 {
    slot as u64 % NUMBER_MASK + 1
}

const fn bit(slot: u32) -> u64 {
    bit_of(number(slot))
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
        fn every_slot_that_was_tried_is_known(slots in prop::collection::vec(0_u32..2_000_000, 0..20)) {
            let mut tried = TriedSlots::NONE;
            for (count, slot) in slots.iter().enumerate() {
                if count < 3 {
                    prop_assert_eq!(tried.contains(*slot), slots[..count].contains(slot));
                }
                tried = tried.with(*slot);
                prop_assert!(slots[..=count].iter().all(|slot| tried.contains(*slot)));
            }
        }

        #[test]
        fn the_first_63_slots_are_exact(slots in prop::collection::vec(0_u32..63, 0..80)) {
            let mut tried = TriedSlots::NONE;
            for (count, slot) in slots.iter().enumerate() {
                if !tried.contains(*slot) {
                    prop_assert!(!slots[..count].contains(slot));
                    tried = tried.with(*slot);
                }
                prop_assert!(tried.contains(*slot));
            }
            prop_assert!((0..63).all(|slot| tried.contains(slot) == slots.contains(&slot)));
        }
    }
}
