//! How many permits are out, how many there may be, and whether somebody waits: in one word.

use std::num::NonZeroU64;

/// The most permits a bulkhead can have.
pub(crate) const MAX_PERMITS: u32 = (1 << 31) - 1;

/// The low half of the word counts what is out. It holds twice the most permits, so that those who
/// add one and find no room cannot spill into the limit, however many do at once.
pub(crate) const LIMIT_SHIFT: u32 = 32;
pub(crate) const LIMIT: u64 = (MAX_PERMITS as u64) << LIMIT_SHIFT;
pub(crate) const WAITING: u64 = 1 << 63;

/// One reading of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) const fn in_flight(self) -> u32 {
        self.0 as u32
    }

    pub(crate) const fn limit(self) -> u32 {
        (self.0 >> LIMIT_SHIFT) as u32 & MAX_PERMITS
    }

    pub(crate) const fn waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    /// Whether `cost` permits are free.
    pub(crate) const fn has_room(self, cost: u32) -> bool {
        self.in_flight() as u64 + cost as u64 <= self.limit() as u64
    }

    /// Whether spares may be kept again.
    pub(crate) const fn has_much_room(self) -> bool {
        !self.waiting() && self.in_flight() < self.limit() / 4
    }

    /// Whether one permit is free and nobody waits for it.
    #[inline(always)]
    pub(crate) const fn is_open(self) -> bool {
        // The flag is the sign of the upper half: one comparison tells both.
        (self.0 as i64 >> LIMIT_SHIFT) > self.in_flight() as i64
    }
}

/// What an admitted call took.
///
/// In whole words: narrower fields are stored one by one and loaded together, which stalls for
/// longer than taking a permit lasts. And in two, one of them never zero, so that functions return
/// it, or why not, in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// `TAKEN`, above it room for others, and the cost.
    word: NonZeroU64,
    in_flight: u64,
}

impl Taken {
    const TAKEN: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();
    pub(crate) const FREE_SHIFT: u32 = 32;

    #[inline(always)]
    pub(crate) fn new(cost: u32, in_flight: u32) -> Self {
        Self {
            word: Self::TAKEN | u64::from(cost),
            in_flight: u64::from(in_flight),
        }
    }

    /// Permits to give back.
    pub(crate) const fn cost(self) -> u32 {
        self.word.get() as u32
    }

    /// Cost and number in flight, in two words. In the first the bits from `FREE_SHIFT` up to the
    /// highest but one are free, and the highest is set.
    #[inline(always)]
    pub(crate) const fn into_words(self) -> (u64, u64) {
        (self.word.get(), self.in_flight)
    }
}
