//! What a call holds, and what its end says.

use super::state::Taken;
use crate::instant::Instant;
use crate::verdict::{ErrorClass, Health, Verdict};

/// What an admitted call has taken, until it is given back. In whole words, as [`Taken`] is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The first word of [`Taken`], with the lane; zero once it has been given back.
    word: u64,
    /// This call included; meaningful where the gate counts exactly.
    pub(super) in_flight: u64,
    /// When the work began; meaningful for adaptive limits only.
    pub(super) started: Instant,
}

impl Held {
    /// What a call holds that has not been admitted.
    pub(super) const NOTHING: Self = Self {
        word: 0,
        in_flight: 0,
        started: Instant::ORIGIN,
    };

    #[inline]
    pub(super) const fn new(taken: Taken, lane: usize, started: Instant) -> Self {
        let (word, in_flight) = taken.into_words();
        Self {
            word: word | (lane as u64) << Taken::FREE_SHIFT,
            in_flight,
            started,
        }
    }

    /// What is held, which from now on is nothing.
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
    pub(super) const fn lane(&self) -> usize {
        (self.word << 1 >> 1 >> Taken::FREE_SHIFT) as usize
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
