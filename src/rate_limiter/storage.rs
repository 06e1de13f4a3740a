//! Storage of a limiter's limits: one atomic, several, or a lock.

use super::state::{Availability, Bucket, Gcra, Inherit, Limit, Limits, Machine, Unavailable};
use super::striped_bucket::StripedBucket;
use super::token_bucket::TokenBucket;
use crate::instant::Instant;
use crate::striped::thread_index;
use crate::sync::{Mutex, lock_checked};

#[derive(Debug)]
pub(super) enum Storage {
    Token(TokenBucket),
    StripedBucket(StripedBucket),
    Locked(Mutex<Locked>),
}

/// Limits behind a lock.
#[derive(Debug)]
pub(super) struct Locked {
    limits: Limits,
    /// The newest time of any call. A call with an earlier reading uses it instead, so the machines never see time go
    /// backwards.
    newest: Instant,
}

impl Locked {
    pub(super) const fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            newest: now,
        }
    }

    fn at(&mut self, now: Instant) -> (&mut Limits, Instant) {
        self.newest = self.newest.max(now);
        (&mut self.limits, self.newest)
    }
}

/// New settings for a [`Storage`], with the state of a new limiter.
pub(super) enum Settings {
    Token(Gcra, u64),
    StripedBucket(Vec<Gcra>, u64),
    Locked(Limits),
}

impl Storage {
    // Not inlined, which keeps the fast path of the single token bucket small.
    #[inline(never)]
    pub(super) fn take(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        match self {
            Self::Token(bucket) => bucket.take_contended(now, tokens),
            Self::StripedBucket(striped) => striped.take(thread_index(), now, tokens),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.take(now, tokens, 0)
            }
        }
    }

    /// Takes tokens, leaving no more than `debt` tokens of debt, and reads the state afterwards. Returns the instant as
    /// of which the tokens are taken.
    pub(super) fn borrow<R>(
        &self,
        now: Instant,
        (tokens, debt): (u64, u64),
        read: impl Fn(&dyn Limit, Instant) -> R,
    ) -> (Result<Instant, Unavailable>, R) {
        let (ready, taken, state) = match self {
            Self::Token(bucket) => {
                let (ready, state) = bucket.borrow(now, (tokens, debt), read);
                (ready, now, state)
            }
            Self::StripedBucket(striped) => {
                let (ready, state) = striped.borrow(thread_index(), now, (tokens, debt), read);
                (ready, now, state)
            }
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                (limits.take(now, tokens, debt), now, read(limits, now))
            }
        };
        (ready.map(|()| taken), state)
    }

    /// Takes tokens that have already been consumed, as many as leave at most `debt` tokens of debt.
    pub(super) fn charge(&self, now: Instant, tokens: u64, debt: u64) {
        match self {
            Self::Token(bucket) => {
                bucket.charge(now, tokens, debt);
            }
            Self::StripedBucket(striped) => {
                striped.charge(thread_index(), now, tokens, debt);
            }
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.charge(now, tokens, debt);
            }
        }
    }

    /// Continues the limits of `old` with the settings of this one, if they are of the same kinds and behind a lock.
    /// Otherwise returns `false`.
    pub(super) fn continue_from(&self, now: Instant, old: &Self) -> bool {
        let (Self::Locked(new), Self::Locked(old)) = (self, old) else {
            return false;
        };
        let (mut limits, now) = {
            let mut old = lock_checked(old);
            let (limits, now) = old.at(now);
            (limits.clone(), now)
        };
        let mut new = lock_checked(new);
        let (settings, now) = new.at(now);
        let continued = limits.replace(now, settings.clone(), Inherit::AsIs);
        if continued {
            *settings = limits;
        }
        continued
    }

    /// Takes from each limit what it has beyond `most`, leaving it at most `debt` tokens of debt. `most` has a number for
    /// each limit; otherwise, its least one applies to all of them.
    pub(super) fn lower_to(&self, now: Instant, most: &[i64], debt: u64) {
        let (_, each) = self.availabilities(now);
        let least = most.iter().copied().min().unwrap_or(i64::MAX);
        let most = |index| match most.len() == each.len() {
            true => most[index],
            false => least,
        };
        let surplus = each.iter().enumerate().map(|(index, has)| {
            u64::try_from(has.available.saturating_sub(most(index))).unwrap_or(0)
        });
        match self {
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.charge_each(now, surplus, debt);
            }
            bucket => bucket.charge(now, surplus.sum(), debt),
        }
    }

    /// Takes `tokens` for a waiter whose turn comes at `from` or later, and by `now`. Returns the instant as of which
    /// they are taken.
    pub(super) fn serve(
        &self,
        from: Instant,
        now: Instant,
        tokens: u64,
    ) -> Result<Instant, Unavailable> {
        match self {
            Self::Token(bucket) => bucket.serve(from, now, tokens).map(|()| now),
            Self::StripedBucket(striped) => striped
                .serve(thread_index(), from, now, tokens)
                .map(|()| now),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.serve(from, now, tokens)
            }
        }
    }

    pub(super) fn ready(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                gcra.ready(tat, now, tokens, 0)
            }
            Self::StripedBucket(striped) => striped.copy().ready(now, tokens, 0),
            Self::Locked(locked) => lock_checked(locked).limits.ready(now, tokens, 0),
        }
    }

    pub(super) fn give(&self, now: Instant, taken: Option<Instant>, tokens: u64) {
        match self {
            Self::Token(bucket) => {
                bucket.give(now, tokens);
            }
            Self::StripedBucket(striped) => striped.give(thread_index(), now, tokens),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.give(now, taken, tokens);
            }
        }
    }

    pub(super) fn replace(&self, now: Instant, new: Settings, inherit: Inherit) {
        match (self, new) {
            (Self::Token(bucket), Settings::Token(gcra, tat)) => {
                bucket.replace(now, &gcra, tat, inherit);
            }
            (Self::StripedBucket(striped), Settings::StripedBucket(rules, initial)) => {
                striped.replace(now, &rules, initial, inherit);
            }
            (Self::Locked(locked), Settings::Locked(new)) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.replace(now, new, inherit);
            }
            // Unreachable: the handle creates settings for its own storage.
            _ => {}
        }
    }

    pub(super) fn availability(&self, now: Instant) -> Availability {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                gcra.availability(tat, now)
            }
            Self::StripedBucket(striped) => striped.copy().availability(now),
            Self::Locked(locked) => lock_checked(locked).limits.availability(now),
        }
    }

    /// Returns the availability of the tightest limit, and of each, at one instant.
    pub(super) fn availabilities(&self, now: Instant) -> (Availability, Vec<Availability>) {
        match self {
            Self::Locked(locked) => {
                let limits = &lock_checked(locked).limits;
                (limits.availability(now), limits.availabilities(now))
            }
            storage => {
                let availability = storage.availability(now);
                (availability, vec![availability])
            }
        }
    }

    /// Returns a copy for forecasts.
    pub(super) fn copy(&self) -> Limits {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                Limits::new(vec![Machine::Token(Bucket { gcra, tat })])
            }
            Self::StripedBucket(striped) => Limits::new(vec![Machine::StripedCopy(striped.copy())]),
            Self::Locked(locked) => lock_checked(locked).limits.clone(),
        }
    }
}
