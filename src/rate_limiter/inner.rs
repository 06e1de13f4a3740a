//! What the clones of a limiter share.

use super::config::Quota;
use super::outside::Outside;
use super::queue::Queue;
use super::state::{Limit, Limits, Machine, Refusal, Standing, Striped, TokenBucket};
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::striped::home;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked};

pub(super) struct Inner {
    pub(super) core: Core,
    pub(super) queue: Queue,
    pub(super) outside: Outside,
    /// Locked while they are changed, so that one caller changes them at a time.
    pub(super) quotas: std::sync::Mutex<Quotas>,
    pub(super) debt: u64,
    pub(super) shadow: bool,
    pub(super) shadowed: AtomicU64,
    /// Whether there is an observer, or shadow mode.
    pub(super) heard: bool,
}

/// What it was built with, or told since.
pub(super) struct Quotas {
    pub(super) each: Vec<Quota>,
    pub(super) changed: bool,
}

/// The limits, as the number and kind of them allows.
#[derive(Debug)]
pub(super) enum Core {
    Token(TokenBucket),
    Striped(Striped),
    Locked(Mutex<Limits>),
}

impl Inner {
    /// Takes tokens for a caller that has lost a race for the token bucket, has others before it, or
    /// has another limit.
    #[inline(never)]
    pub(super) fn try_acquire_otherwise(&self, now: Instant, cost: u64) -> Result<(), Rejected> {
        match self.take_otherwise(now, cost) {
            Ok(()) => Ok(()),
            Err(refusal) => self.refuse(now, refusal, None),
        }
    }

    /// As [`take`](Self::take), where something else is to be looked at than one token bucket.
    #[inline(never)]
    pub(super) fn take_otherwise(&self, now: Instant, cost: u64) -> Result<(), Refusal> {
        match &self.core {
            _ if self.queue.is_busy() => self.behind(now, cost),
            Core::Token(bucket) => bucket.take_again(now, cost),
            other => other.take_other(now, cost),
        }
    }

    /// Takes tokens without waiting and without overtaking those who wait.
    #[inline(always)]
    pub(super) fn take(&self, now: Instant, cost: u64) -> Result<(), Refusal> {
        if let (Core::Token(bucket), false) = (&self.core, self.queue.is_busy()) {
            if let Some(taken) = bucket.attempt(now, cost) {
                return taken;
            }
        }
        self.take_otherwise(now, cost)
    }

    #[cold]
    pub(super) fn behind(&self, now: Instant, cost: u64) -> Result<(), Refusal> {
        match self.queue.forecast(&self.core, now, cost) {
            // All who waited are gone by now, or are just going.
            Ok(()) => self.core.take(now, cost),
            refused => refused,
        }
    }

    /// Refuses, or in shadow mode lets through what would have been refused.
    #[inline]
    pub(super) fn refuse(
        &self,
        now: Instant,
        refusal: Refusal,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if self.is_heard(observer) {
            return self.refuse_aloud(now, refusal, observer);
        }
        Err(self.outside.rejected(now, refusal, Reason::RateLimited))
    }

    // Makes a refusal of its own: one that was handed over would have to be in memory before anybody
    // knows whether it is needed there.
    #[cold]
    pub(super) fn refuse_aloud(
        &self,
        now: Instant,
        refusal: Refusal,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.report(
            self.outside.rejected(now, refusal, Reason::RateLimited),
            observer,
        )
    }

    /// Whether a refusal has to be told to somebody, or is none in shadow mode.
    #[inline]
    pub(super) fn is_heard(&self, observer: Option<&dyn Observer>) -> bool {
        observer.is_some() || self.heard
    }

    #[inline]
    pub(super) fn reject(
        &self,
        rejected: Rejected,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if self.is_heard(observer) {
            return self.report(rejected, observer);
        }
        Err(rejected)
    }

    pub(super) fn report(
        &self,
        rejected: Rejected,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        let event = match self.shadow {
            true => Event::would_reject(&rejected),
            false => Event::rejected(&rejected),
        };
        self.outside.tell(&event, observer);
        if self.shadow {
            // Relaxed: a statistic.
            self.shadowed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        } else {
            Err(rejected)
        }
    }

    /// Gives tokens back, those taken at `taken` if that is known.
    pub(super) fn give(&self, taken: Option<Instant>, tokens: u64) {
        if tokens == 0 {
            return;
        }
        self.core.give(self.outside.now(), taken, tokens);
        self.wake_first();
    }

    pub(super) fn wake_first(&self) {
        if let Some(waker) = self.queue.first() {
            waker.wake();
        }
    }
}

impl Core {
    #[inline(always)]
    pub(super) fn take(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        match self {
            Self::Token(bucket) => bucket.take(now, tokens),
            _ => self.take_other(now, tokens),
        }
    }

    // Out of the way of the single token bucket.
    #[inline(never)]
    pub(super) fn take_other(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        match self {
            Self::Token(bucket) => bucket.take(now, tokens),
            Self::Striped(striped) => striped.take(home(), now, tokens),
            Self::Locked(limits) => lock_checked(limits).take(now, tokens),
        }
    }

    /// Takes tokens that leave no more than `debt` owed. Returns whether, where that leads, and
    /// whether anything is owed now.
    pub(super) fn borrow(
        &self,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Standing, Result<(), Refusal>) {
        match self {
            Self::Token(bucket) => bucket.borrow(now, tokens, debt),
            Self::Striped(striped) => {
                let (taken, paid) = striped.borrow(home(), now, tokens, debt);
                (taken, striped.copy().standing(now), paid)
            }
            Self::Locked(limits) => {
                let mut limits = lock_checked(limits);
                let taken = limits.borrow(now, tokens, debt);
                (taken, limits.standing(now), limits.ready(now, 0, 0))
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
            Self::Locked(limits) => lock_checked(limits).ready(now, tokens, 0),
        }
    }

    pub(super) fn give(&self, now: Instant, taken: Option<Instant>, tokens: u64) {
        match self {
            Self::Token(bucket) => bucket.give(tokens),
            Self::Striped(striped) => striped.give(home(), tokens),
            Self::Locked(limits) => lock_checked(limits).give(now, taken, tokens),
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                gcra.standing(tat, now)
            }
            Self::Striped(striped) => striped.copy().standing(now),
            Self::Locked(limits) => lock_checked(limits).standing(now),
        }
    }

    /// A copy that can be asked what would be.
    pub(super) fn copy(&self) -> Limits {
        match self {
            Self::Token(bucket) => {
                let (gcra, tat) = bucket.copy();
                Limits::new(vec![Machine::Token { gcra, tat }])
            }
            Self::Striped(striped) => Limits::new(vec![Machine::Parts(striped.copy())]),
            Self::Locked(limits) => lock_checked(limits).clone(),
        }
    }
}
