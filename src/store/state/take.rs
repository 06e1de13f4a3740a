//! Requests of shared rate limits to a store, and its answers.

use std::sync::Arc;
use std::time::Duration;

use crate::rate_limiter::Quota;

/// A point on a store's clock: microseconds since an origin that the store chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(u64);

impl StoreTime {
    /// Makes the point `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

/// A request for tokens of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Take {
    /// The key of the bucket.
    pub key: Arc<str>,
    /// The quota. A token bucket without a warm-up; no faster than a token a microsecond.
    pub quota: Quota,
    /// Tokens asked for. May be zero.
    pub ask: u64,
    /// Grants nothing rather than fewer tokens than this.
    pub at_least: u64,
    /// Tokens that were spent without asking, while the store did not answer.
    pub spent: u64,
    /// Tokens to give back, and when the store granted them.
    pub give_back: Option<(u64, StoreTime)>,
}

impl Take {
    /// Makes a request for `ask` tokens, or fewer but one.
    pub const fn new(key: Arc<str>, quota: Quota, ask: u64) -> Self {
        Self {
            key,
            quota,
            ask,
            at_least: 1,
            spent: 0,
            give_back: None,
        }
    }
}

/// The answer to a [`Take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// Tokens granted.
    pub granted: u64,
    /// Whole tokens that the bucket holds now.
    pub remaining: u64,
    /// The time until the bucket holds [`Take::at_least`] tokens, and one at least; zero if it does.
    pub retry_after: Duration,
    /// The time until the bucket is full.
    pub reset_after: Duration,
    /// The time of the store.
    pub now: StoreTime,
    /// Tokens granted and debited to all processes since the bucket was last forgotten.
    pub total: u64,
}

impl Taken {
    /// Makes an answer that grants `granted` tokens of a bucket that holds `remaining` after that. The times
    /// are zero and the total is `granted`, to be changed where they are not.
    pub const fn new(granted: u64, remaining: u64, now: StoreTime) -> Self {
        Self {
            granted,
            remaining,
            retry_after: Duration::ZERO,
            reset_after: Duration::ZERO,
            now,
            total: granted,
        }
    }
}
