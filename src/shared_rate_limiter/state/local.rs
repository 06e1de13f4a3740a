//! The limit of a process whose store does not answer.

use super::rules::{Outage, Rules};
use crate::instant::Instant;

/// What calls are admitted by while the store does not answer, and until the processes agree afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Local {
    /// The store decides.
    Off,
    On {
        /// Of the outage.
        number: u64,
        limit: LocalLimit,
    },
}

/// What admits calls while the store does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LocalLimit {
    Bucket(LocalBucket),
    Open,
    Closed,
}

impl LocalLimit {
    /// Returns what admits calls from now on: `kept` is the bucket of the last outage, `share` this process's share of
    /// the fleet's tokens, and `level` what the store said it holds, and when.
    pub(crate) fn new(
        rules: &Rules,
        now: Instant,
        kept: Option<LocalBucket>,
        share: f64,
        level: Option<(Instant, f64)>,
    ) -> Self {
        match rules.outage {
            Outage::Open => Self::Open,
            Outage::Closed => Self::Closed,
            Outage::Local(quota) => Self::Bucket(kept.unwrap_or_else(|| {
                let rate = quota.tokens() as f64 / quota.period().as_nanos() as f64;
                let burst = quota.limit() as f64;
                LocalBucket::new(rate, burst, burst, now)
            })),
            Outage::OwnShare => {
                let burst = rules.burst as f64;
                // Nothing is known of a store that never answered: the bucket may be full.
                let (at, level) = level.unwrap_or((now, burst));
                let rate = share / rules.token;
                Self::Bucket(LocalBucket::new(rate, share * burst, share * level, at))
            }
        }
    }

    /// Takes tokens, if it admits a call that needs them.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Bucket(bucket) => bucket.take(now, tokens),
        }
    }

    /// Returns how many tokens calls may take without asking, to be [debited](Self::debit) afterwards.
    pub(crate) fn lend(&mut self, now: Instant) -> u64 {
        match self {
            Self::Open => u64::from(u32::MAX),
            Self::Closed => 0,
            Self::Bucket(bucket) => bucket.lend(now),
        }
    }

    /// Takes tokens that were lent and spent.
    pub(crate) fn debit(&mut self, now: Instant, tokens: u64) {
        if let Self::Bucket(bucket) = self {
            bucket.debit(now, tokens);
        }
    }

    /// Returns when it admits a call that needs so many tokens; `None` if never.
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
    /// Returns a bucket that holds at least one token when full, and `tokens` at the instant `at`.
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

    /// At most an eighth of the bucket: a full bucket earns nothing for what is lent.
    fn lend(&mut self, now: Instant) -> u64 {
        self.refill(now);
        (self.tokens + ROUNDING).min((self.capacity / 8.0).max(1.0)) as u64
    }

    fn debit(&mut self, now: Instant, tokens: u64) {
        // Earned first: tokens spent since would else be earned twice.
        self.refill(now);
        self.tokens = (self.tokens - tokens as f64).max(0.0);
    }

    /// Puts tokens back.
    pub(crate) const fn put_back(&mut self, tokens: u64) {
        self.tokens = (self.tokens + tokens as f64).min(self.capacity);
    }

    /// Returns when there are so many tokens; `None` if there never are.
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
