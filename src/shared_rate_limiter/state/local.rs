//! The limit of a process whose store does not answer.

use crate::instant::Instant;

/// What admits calls while the store does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LocalLimit {
    Bucket(LocalBucket),
    Open,
    Closed,
}

impl LocalLimit {
    /// Takes tokens, if it admits a call that needs them.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Bucket(bucket) => bucket.take(now, tokens),
        }
    }

    /// When it admits a call that needs so many tokens; `None` if never.
    pub(crate) fn ready_at(&mut self, now: Instant, tokens: u64) -> Option<Instant> {
        match self {
            Self::Open => Some(now),
            Self::Closed => None,
            Self::Bucket(bucket) => bucket.ready_at(now, tokens),
        }
    }
}

/// A token bucket with shares of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalBucket {
    /// Tokens a nanosecond.
    rate: f64,
    capacity: f64,
    tokens: f64,
    at: Instant,
}

/// Shares of a token that rounding may cost.
const ROUNDING: f64 = 1e-9;

impl LocalBucket {
    /// A bucket that holds at least one token when full, and `tokens` at the instant `at`.
    pub(crate) const fn new(rate: f64, capacity: f64, tokens: f64, at: Instant) -> Self {
        let capacity = capacity.max(1.0);
        Self {
            rate,
            capacity,
            tokens: tokens.min(capacity),
            at,
        }
    }

    const fn refill(&mut self, now: Instant) {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        self.tokens = (self.tokens + passed * self.rate).min(self.capacity);
        if now.as_nanos() > self.at.as_nanos() {
            self.at = now;
        }
    }

    /// Takes tokens, if there are enough.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> bool {
        self.refill(now);
        let fits = self.tokens + ROUNDING >= tokens as f64;
        if fits {
            self.tokens = (self.tokens - tokens as f64).max(0.0);
        }
        fits
    }

    /// Puts tokens back.
    pub(crate) const fn put_back(&mut self, tokens: u64) {
        self.tokens = (self.tokens + tokens as f64).min(self.capacity);
    }

    /// When there are so many tokens; `None` if there never are.
    pub(crate) fn ready_at(&mut self, now: Instant, tokens: u64) -> Option<Instant> {
        self.refill(now);
        let missing = tokens as f64 - self.tokens - ROUNDING;
        if tokens as f64 > self.capacity + ROUNDING {
            return None;
        }
        Some(now.after((missing / self.rate).max(0.0).ceil() as u64))
    }

    /// Tokens that the rate brings in so many nanoseconds.
    pub(crate) const fn earned(&self, nanos: u64) -> f64 {
        self.rate * nanos as f64
    }
}
