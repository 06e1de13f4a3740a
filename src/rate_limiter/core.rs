//! The limits of a limiter, as their number and kind allow: without a lock, in parts, or behind a lock.

use super::state::{Bucket, Gcra, Inherit, Limit, Limits, Machine, Refusal, Standing};
use super::striped::Striped;
use super::token_bucket::{Borrowed, TokenBucket};
use crate::instant::Instant;
use crate::striped::thread_index;
use crate::sync::{Mutex, lock_checked};

#[derive(Debug)]
pub(super) enum Core {
    Token(TokenBucket),
    Striped(Striped),
    Locked(Mutex<Locked>),
}

/// Limits that one thread at a time may use.
#[derive(Debug)]
pub(super) struct Locked {
    limits: Limits,
    /// The newest time they were used at. Threads that come late use it too, so that the machines never
    /// see time go back.
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

/// New settings for a [`Core`], and what a new one would begin with.
pub(super) enum Settings {
    Token(Gcra, u64),
    Striped(Vec<Gcra>, u64),
    Locked(Limits),
}

impl Core {
    // Out of the way of the single token bucket.
    #[inline(never)]
    pub(super) fn take(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        match self {
            Self::Token(bucket) => bucket.take_contended(now, tokens),
            Self::Striped(striped) => striped.take(thread_index(), now, tokens),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.take(now, tokens, 0)
            }
        }
    }

    /// Takes tokens that leave no more than `debt` owed.
    pub(super) fn borrow(
        &self,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Borrowed) {
        match self {
            Self::Token(bucket) => bucket.borrow(now, tokens, debt),
            Self::Striped(striped) => striped.borrow(thread_index(), now, tokens, debt),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                let ready = limits.take(now, tokens, debt);
                let borrowed = Borrowed {
                    standing: limits.standing(now),
                    paid: limits.ready(now, 0, 0),
                    taken: now,
                };
                (ready, borrowed)
            }
        }
    }

    /// Takes tokens that have been used up already, as many as leave no more than `debt` owed.
    pub(super) fn charge(&self, now: Instant, tokens: u64, debt: u64) {
        match self {
            Self::Token(bucket) => {
                bucket.charge(now, tokens, debt);
            }
            Self::Striped(striped) => {
                striped.charge(thread_index(), now, tokens, debt);
            }
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.charge(now, tokens, debt);
            }
        }
    }

    /// Takes `tokens` for a waiter at its turn, if that comes at `from` or later, and by `now`. Returns the
    /// instant at which they count as taken.
    pub(super) fn serve(
        &self,
        from: Instant,
        now: Instant,
        tokens: u64,
    ) -> Result<Instant, Refusal> {
        match self {
            Self::Token(bucket) => bucket.serve(from, now, tokens).map(|()| now),
            Self::Striped(striped) => striped
                .serve(thread_index(), from, now, tokens)
                .map(|()| now),
            Self::Locked(locked) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.serve(from, now, tokens)
            }
        }
    }

    pub(super) fn ready(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                gcra.ready(tat, now, tokens, 0)
            }
            Self::Striped(striped) => striped.copy().ready(now, tokens, 0),
            Self::Locked(locked) => lock_checked(locked).limits.ready(now, tokens, 0),
        }
    }

    pub(super) fn give(&self, now: Instant, taken: Option<Instant>, tokens: u64) {
        match self {
            Self::Token(bucket) => {
                bucket.give(now, tokens);
            }
            Self::Striped(striped) => striped.give(thread_index(), now, tokens),
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
            (Self::Striped(striped), Settings::Striped(rules, initial)) => {
                striped.replace(now, &rules, initial, inherit);
            }
            (Self::Locked(locked), Settings::Locked(new)) => {
                let mut locked = lock_checked(locked);
                let (limits, now) = locked.at(now);
                limits.replace(now, new, inherit);
            }
            // The handle makes settings of the same kind.
            _ => {}
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                gcra.standing(tat, now)
            }
            Self::Striped(striped) => striped.copy().standing(now),
            Self::Locked(locked) => lock_checked(locked).limits.standing(now),
        }
    }

    /// That of the tightest limit, and each, at one instant.
    pub(super) fn standings(&self, now: Instant) -> (Standing, Vec<Standing>) {
        match self {
            Self::Locked(locked) => {
                let limits = &lock_checked(locked).limits;
                (limits.standing(now), limits.standings(now))
            }
            core => {
                let standing = core.standing(now);
                (standing, vec![standing])
            }
        }
    }

    /// A copy that can be asked what would be.
    pub(super) fn copy(&self) -> Limits {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                Limits::new(vec![Machine::Token(Bucket { gcra, tat })])
            }
            Self::Striped(striped) => Limits::new(vec![Machine::Parts(striped.copy())]),
            Self::Locked(locked) => lock_checked(locked).limits.clone(),
        }
    }
}
