//! The local limit of a process during an outage of its store.

use super::level::Level;
use super::rules::{Outage, Rules};
use crate::instant::Instant;

/// Whether calls are admitted locally: during an outage, and with [`Outage::OwnShare`] shortly after it, until the other
/// processes have noticed its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Local {
    /// The store decides.
    Off,
    On {
        /// The number of the outage.
        number: u64,
        limit: LocalLimit,
    },
}

impl Local {
    /// Returns the local limit, if it is on.
    pub(crate) const fn limit(&self) -> Option<LocalLimit> {
        match *self {
            Self::On { limit, .. } => Some(limit),
            Self::Off => None,
        }
    }
}

/// The rule that admits calls during an outage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LocalLimit {
    Bucket(LocalBucket),
    Open,
    Closed,
}

impl LocalLimit {
    /// Returns the local limit at the start of an outage. `kept` is the bucket of the last outage, `share` this
    /// process's share of the fleet's tokens, and `level` the store's last level.
    pub(crate) fn new(
        rules: &Rules,
        now: Instant,
        kept: Option<LocalBucket>,
        share: f64,
        level: Option<Level>,
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
                // The level of a store that never answered is unknown: assume a full bucket.
                let full = Level {
                    at: now,
                    tokens: burst,
                };
                let Level { at, tokens } = level.unwrap_or(full);
                let rate = share / rules.token;
                Self::Bucket(LocalBucket::new(rate, share * burst, share * tokens, at))
            }
        }
    }

    /// Counts what was spent since the level was known: by calls under the limit `before`, or, without one, `spent` tokens
    /// that no grant has paid for. Otherwise each outage of a store that answers now and then would begin with as many
    /// tokens as the first one.
    pub(crate) fn count_spent(&mut self, now: Instant, before: Option<Self>, spent: u64) {
        match (self, before) {
            (Self::Bucket(bucket), Some(Self::Bucket(before))) => bucket.lower_to(now, before),
            (Self::Bucket(bucket), _) => bucket.debit(now, spent),
            _ => {}
        }
    }

    /// Takes tokens if there are enough.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Bucket(bucket) => bucket.take(now, tokens),
        }
    }

    /// Returns how many tokens the pocket may hand out, to be [debited](Self::debit) afterwards.
    pub(crate) fn lend(&mut self, now: Instant) -> u64 {
        match self {
            Self::Open => u64::from(u32::MAX),
            Self::Closed => 0,
            Self::Bucket(bucket) => bucket.lend(now),
        }
    }

    /// Debits tokens that were lent and spent.
    pub(crate) fn debit(&mut self, now: Instant, tokens: u64) {
        if let Self::Bucket(bucket) = self {
            bucket.debit(now, tokens);
        }
    }

    /// Returns when there will be this many tokens; `None` if never.
    pub(crate) fn ready_at(&mut self, now: Instant, tokens: u64) -> Option<Instant> {
        match self {
            Self::Open => Some(now),
            Self::Closed => None,
            Self::Bucket(bucket) => bucket.ready_at(now, tokens),
        }
    }
}

/// A token bucket that counts fractions of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalBucket {
    /// Tokens per nanosecond.
    rate: f64,
    capacity: f64,
    tokens: f64,
    at: Instant,
}

/// Tolerance for rounding errors, in tokens.
const ROUNDING: f64 = 1e-9;

impl LocalBucket {
    /// Returns a bucket with `tokens` at the instant `at`. Its capacity is at least one token.
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

    /// Takes tokens if there are enough.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> bool {
        self.refill(now);
        let fits = self.tokens + ROUNDING >= tokens as f64;
        if fits {
            self.tokens = (self.tokens - tokens as f64).max(0.0);
        }
        fits
    }

    /// Lends at most an eighth of the capacity, because a bucket that is full earns nothing for lent tokens.
    fn lend(&mut self, now: Instant) -> u64 {
        self.refill(now);
        (self.tokens + ROUNDING).min((self.capacity / 8.0).max(1.0)) as u64
    }

    fn debit(&mut self, now: Instant, tokens: u64) {
        // Refills first: otherwise tokens spent since the last refill would be earned twice.
        self.refill(now);
        self.tokens = (self.tokens - tokens as f64).max(0.0);
    }

    /// Lowers the tokens to those of another bucket.
    const fn lower_to(&mut self, now: Instant, mut other: Self) {
        self.refill(now);
        other.refill(now);
        self.tokens = self.tokens.min(other.tokens);
    }

    /// Puts tokens back.
    pub(crate) const fn put_back(&mut self, tokens: u64) {
        self.tokens = (self.tokens + tokens as f64).min(self.capacity);
    }

    /// Returns when there will be this many tokens; `None` if never.
    pub(crate) fn ready_at(&mut self, now: Instant, tokens: u64) -> Option<Instant> {
        self.refill(now);
        let missing = tokens as f64 - self.tokens - ROUNDING;
        if tokens as f64 > self.capacity + ROUNDING {
            return None;
        }
        Some(now.after((missing / self.rate).max(0.0).ceil() as u64))
    }

    /// Returns how many tokens it lacks, rounded up.
    pub(crate) fn missing(mut self, now: Instant) -> u64 {
        self.refill(now);
        (self.capacity - self.tokens - ROUNDING).max(0.0).ceil() as u64
    }
}
