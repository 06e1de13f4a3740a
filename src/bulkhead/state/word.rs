//! The packed state of the semaphore: permits in flight, limit, and two flags.

use std::num::NonZeroU64;

/// The most permits a bulkhead can have.
pub(crate) const MAX_PERMITS: u32 = (1 << 31) - 1;

const IN_FLIGHT: u64 = MAX_PERMITS as u64;
const LIMIT_SHIFT: u32 = 31;
/// Calls wait: released permits belong to them.
pub(crate) const WAITING: u64 = 1 << 63;
/// Free permits may lie in the permit cache, where they count as in flight.
pub(crate) const CACHED: u64 = 1 << 62;

/// One reading of the semaphore. The low 31 bits count permits in flight, the next 31 hold the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) const fn new(limit: u32) -> Self {
        Self((limit as u64) << LIMIT_SHIFT)
    }

    #[inline(always)]
    pub(crate) const fn in_flight(self) -> u32 {
        (self.0 & IN_FLIGHT) as u32
    }

    #[inline(always)]
    pub(crate) const fn limit(self) -> u32 {
        (self.0 >> LIMIT_SHIFT & IN_FLIGHT) as u32
    }

    pub(crate) const fn with_limit(self, limit: u32) -> Self {
        Self(self.0 & !(IN_FLIGHT << LIMIT_SHIFT) | (limit as u64) << LIMIT_SHIFT)
    }

    #[inline(always)]
    pub(crate) const fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    pub(crate) const fn is_cached(self) -> bool {
        self.0 & CACHED != 0
    }

    /// Whether `cost` permits are free.
    #[inline(always)]
    pub(crate) const fn has_room(self, cost: u32) -> bool {
        self.in_flight() as u64 + cost as u64 <= self.limit() as u64
    }

    /// Whether three quarters of the permits are free and no call waits.
    pub(crate) const fn has_much_room(self) -> bool {
        !self.is_waiting() && self.in_flight() < self.limit() / 4
    }
}

/// Permits that a call has acquired.
///
/// In whole words: narrower fields are stored one by one and loaded together, which stalls longer
/// than an acquisition takes. One word is never zero, so that a `Result` of it fits two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// `TAKEN`, 31 bits for the partition, and the cost.
    word: NonZeroU64,
    in_flight: u64,
}

impl Taken {
    const TAKEN: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();
    pub(crate) const PARTITION_SHIFT: u32 = 32;

    #[inline(always)]
    pub(crate) fn new(cost: u32, in_flight: u32) -> Self {
        Self {
            word: Self::TAKEN | u64::from(cost),
            in_flight: u64::from(in_flight),
        }
    }

    /// Number of permits to release.
    pub(crate) const fn cost(self) -> u32 {
        self.word.get() as u32
    }

    /// The cost with the highest bit set, and the number in flight.
    #[inline(always)]
    pub(crate) const fn into_words(self) -> (u64, u64) {
        (self.word.get(), self.in_flight)
    }
}
