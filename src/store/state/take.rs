//! Requests of shared rate limits to a store, and its answers.

use std::sync::Arc;
use std::time::Duration;

use crate::rate_limiter::Quota;

/// A point on a store's clock: microseconds since an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(u64);

impl StoreTime {
    /// Returns the point `micros` microseconds after the origin.
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
    /// The quota: a token bucket without a warm-up, at most one token per microsecond.
    pub quota: Quota,
    /// Tokens requested. May be zero.
    pub ask: u64,
    /// The least number of tokens to grant; otherwise none are granted.
    pub at_least: u64,
    /// Tokens spent without a request during an outage, to be debited.
    pub spent: u64,
    /// Tokens to return, and when the store granted them.
    pub give_back: Option<(u64, StoreTime)>,
}

impl Take {
    /// Returns a request for `ask` tokens that also accepts fewer, but at least one.
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
    /// The time until the bucket holds [`Take::at_least`] tokens, at least one; zero if it does.
    pub retry_after: Duration,
    /// The time until the bucket is full.
    pub reset_after: Duration,
    /// The store's current time.
    pub now: StoreTime,
    /// Tokens granted to and debited from all processes since the bucket was created.
    pub total: u64,
}

impl Taken {
    /// Returns an answer that grants `granted` tokens and leaves `remaining` in the bucket. The times are zero and
    /// the total is `granted`; set the fields that differ.
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
