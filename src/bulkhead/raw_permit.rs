//! Permits of a call without their guard, and how a call ended.

use super::state::Taken;
use crate::instant::Instant;
use crate::verdict::{ErrorClass, Health, Verdict};

/// Permits that an admitted call holds until they are released. In whole words, as [`Taken`] is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawPermit {
    /// The first word of [`Taken`] with the partition; zero if nothing is held.
    word: u64,
    /// This call included; only exact where no permits are cached.
    pub(super) in_flight: u64,
    /// When the work began; only set for adaptive limits.
    pub(super) started: Instant,
}

impl RawPermit {
    /// What a call holds before it is admitted, and while it bypasses the bulkhead.
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

    /// Takes what is held out of `self`, which then holds nothing.
    #[inline]
    pub(super) const fn take(&mut self) -> Option<Self> {
        // Word by word: as one value it would be copied in pieces wider than it was just written in.
        let held = Self {
            word: self.word,
            in_flight: self.in_flight,
            started: self.started,
        };
        self.word = 0;
        if held.word == 0 { None } else { Some(held) }
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

/// What the end of a call says about the load.
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
            // Errors are often quick: their latency would look like a dependency with room.
            _ => Self::Neutral,
        }
    }
}
