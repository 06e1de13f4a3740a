//! Permits of a call without their RAII guard, and how calls end.

use std::fmt;

use super::state::Taken;
use crate::instant::Instant;
use crate::verdict::{ErrorClass, Health, Verdict};

/// Permits that an admitted call holds until they are released. Fields are whole words, as in [`Taken`].
#[derive(Clone, Copy)]
pub(super) struct RawPermit {
    /// The first word of [`Taken`] with the partition, or zero if nothing is held.
    word: u64,
    /// Number of permits in flight, including these. Only exact where no permits are cached.
    pub(super) in_flight: u64,
    /// When the operation started. Only set for adaptive limits.
    pub(super) started: Instant,
}

impl fmt::Debug for RawPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawPermit")
            .field("cost", &self.cost())
            .field("partition", &self.partition())
            .finish_non_exhaustive()
    }
}

impl RawPermit {
    /// The permits of a call that is not admitted yet, or that bypasses the bulkhead.
    pub(super) const NOTHING: Self = Self {
        word: 0,
        in_flight: 0,
        started: Instant::ORIGIN,
    };

    #[inline]
    pub(super) const fn new(taken: Taken, partition: u32, started: Instant) -> Self {
        let (word, in_flight) = taken.into_words();
        Self {
            word: word | (partition as u64) << Taken::PARTITION_SHIFT,
            in_flight,
            started,
        }
    }

    /// Moves the permits out of `self`, which then holds nothing.
    #[inline]
    pub(super) const fn take(&mut self) -> Option<Self> {
        // Word by word: a wider copy than the preceding stores would stall.
        let raw = Self {
            word: self.word,
            in_flight: self.in_flight,
            started: self.started,
        };
        self.word = 0;
        if raw.word == 0 { None } else { Some(raw) }
    }

    /// Returns the words from which [`from_words`](Self::from_words) makes the permits again.
    #[inline]
    pub(super) const fn into_words(self) -> (u64, u64, Instant) {
        (self.word, self.in_flight, self.started)
    }

    #[inline]
    pub(super) const fn from_words(word: u64, in_flight: u64, started: Instant) -> Self {
        Self {
            word,
            in_flight,
            started,
        }
    }

    #[inline]
    pub(super) const fn is_nothing(&self) -> bool {
        self.word == 0
    }

    #[inline]
    pub(super) const fn cost(&self) -> u32 {
        self.word as u32
    }

    #[inline]
    pub(super) const fn partition(&self) -> u32 {
        (self.word << 1 >> 1 >> Taken::PARTITION_SHIFT) as u32
    }
}

/// The load signal of a call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Neutral,
    Success,
    Overloaded,
}

impl Ending {
    pub(super) const fn of(verdict: &Verdict) -> Self {
        match (verdict.health(), verdict.class()) {
            (Health::Healthy, _) => Self::Success,
            (Health::Unhealthy, ErrorClass::Throttled | ErrorClass::Timeout) => Self::Overloaded,
            // Errors are often fast: their latency would look like spare capacity.
            _ => Self::Neutral,
        }
    }
}
