//! The packed state of the semaphore: permits in flight, limit, and two flags.

use std::fmt;
use std::num::NonZeroU64;

/// The largest limit.
pub(crate) const MAX_PERMITS: u32 = (1 << 31) - 1;

const IN_FLIGHT: u64 = MAX_PERMITS as u64;
const LIMIT_SHIFT: u32 = 31;
/// Set while calls wait. Released permits then belong to the waiters.
pub(crate) const WAITING: u64 = 1 << 63;
/// Set while the permit cache may hold free permits. They count as in flight.
pub(crate) const CACHED: u64 = 1 << 62;

/// One reading of the semaphore. The low 31 bits count permits in flight, the next 31 hold the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedState(pub(crate) u64);

impl PackedState {
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

    /// Returns whether `cost` permits are free.
    #[inline(always)]
    pub(crate) const fn has_room(self, cost: u32) -> bool {
        self.in_flight() as u64 + cost as u64 <= self.limit() as u64
    }

    /// Returns whether three quarters of the permits are free and no call waits.
    pub(crate) const fn has_much_room(self) -> bool {
        !self.is_waiting() && self.in_flight() < self.limit() / 4
    }
}

impl fmt::Debug for PackedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedState")
            .field("in_flight", &self.in_flight())
            .field("limit", &self.limit())
            .field("waiting", &self.is_waiting())
            .field("cached", &self.is_cached())
            .finish()
    }
}

/// Permits that a call has acquired.
///
/// Fields are whole words: narrower fields would be stored separately and loaded together, and the failed
/// store-to-load forwarding costs more than an acquisition. The first word is never zero, so a `Result` of this
/// type fits two registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// From the highest bit: `TAKEN`, 31 bits for the partition, 32 bits for the cost.
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

    /// Returns the number of permits to release.
    pub(crate) const fn cost(self) -> u32 {
        self.word.get() as u32
    }

    /// Returns the cost with the highest bit set, and the number in flight.
    #[inline(always)]
    pub(crate) const fn into_words(self) -> (u64, u64) {
        (self.word.get(), self.in_flight)
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("cost", &self.cost())
            .field("in_flight", &self.in_flight)
            .finish()
    }
}
