//! Tokens that calls take without a lock.

use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

/// Tokens of a lease that calls may take until they expire, or the time until which calls are rejected.
///
/// Calls only take tokens. All other changes happen under the lock of the limit, which first takes all tokens out
/// ([`close`](Self::close)) and puts them back at the end ([`open`](Self::open)). Calls that come in between find no
/// tokens and wait for the lock.
#[derive(Debug)]
pub(crate) struct Pocket {
    tokens: AtomicU64,
    /// In nanoseconds, like the other instants here.
    expires: AtomicU64,
    /// A call that leaves no more than this makes the lease request more.
    low: AtomicU64,
    /// Until this time, calls that find no token are rejected.
    closed_until: AtomicU64,
    /// When there will be a token again.
    ready_at: AtomicU64,
    /// Tokens asked for by calls that were rejected here.
    rejected: AtomicU64,
}

/// The contents that [`Pocket::open`] puts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) tokens: u64,
    pub(crate) expires: Instant,
    pub(crate) low: u64,
    pub(crate) closed_until: Instant,
    pub(crate) ready_at: Instant,
}

/// The outcome of [`Pocket::spend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The tokens were taken.
    Taken,
    /// The tokens were taken, and few are left.
    TakenLow,
    /// The call is rejected. There will be a token at this instant.
    Rejected(Instant),
    /// The lease must decide, under the lock.
    Unknown,
}

impl Pocket {
    pub(crate) fn new() -> Self {
        Self {
            tokens: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            low: AtomicU64::new(0),
            closed_until: AtomicU64::new(0),
            ready_at: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    /// Takes tokens for a call.
    // Relaxed, here and below: the numbers publish no other data. A call may read the expiry of an older lot, and
    // then asks the lease; or that of a newer lot, and spends an older token a moment too late.
    #[inline(always)]
    pub(crate) fn spend(&self, now: Instant, cost: u64) -> Spent {
        let mut tokens = self.tokens.load(Ordering::Relaxed);
        loop {
            let Some(left) = tokens.checked_sub(cost) else {
                return self.without(now, cost, tokens);
            };
            if now.as_nanos() >= self.expires.load(Ordering::Relaxed) {
                return Spent::Unknown;
            }
            match self.tokens.compare_exchange_weak(
                tokens,
                left,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) if left > self.low.load(Ordering::Relaxed) => return Spent::Taken,
                Ok(_) => return Spent::TakenLow,
                Err(found) => tokens = found,
            }
        }
    }

    /// Rejects a call that finds too few tokens, or leaves the decision to the lease.
    #[inline]
    fn without(&self, now: Instant, cost: u64, tokens: u64) -> Spent {
        let until = self.closed_until.load(Ordering::Relaxed);
        // Only for single tokens: the lease knows when there will be several.
        if cost == 1 && tokens == 0 && now.as_nanos() < until {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Spent::Rejected(Instant::from_nanos(self.ready_at.load(Ordering::Relaxed)));
        }
        Spent::Unknown
    }

    /// Returns the number of tokens left.
    pub(crate) fn left(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Takes all tokens out. Returns them, and the tokens asked for by calls rejected since the pocket was opened.
    pub(crate) fn close(&self) -> (u64, u64) {
        self.closed_until.store(0, Ordering::Relaxed);
        let tokens = self.tokens.swap(0, Ordering::Relaxed);
        (tokens, self.rejected.swap(0, Ordering::Relaxed))
    }

    /// Puts tokens in, with their expiry.
    pub(crate) fn open(&self, contents: Contents) {
        self.expires
            .store(contents.expires.as_nanos(), Ordering::Relaxed);
        self.low.store(contents.low, Ordering::Relaxed);
        self.ready_at
            .store(contents.ready_at.as_nanos(), Ordering::Relaxed);
        self.closed_until
            .store(contents.closed_until.as_nanos(), Ordering::Relaxed);
        self.tokens.store(contents.tokens, Ordering::Relaxed);
    }
}
