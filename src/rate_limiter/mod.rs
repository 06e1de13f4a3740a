// Includes the page's picture, because rustdoc cannot include an image file.
#![doc = include_str!("../../docs/patterns/rate-limiter.svg.md")]
#![doc = include_str!("../../docs/patterns/rate-limiter.md")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConfigError, Rejected};
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::sync::cold_path;
use crate::verdict::Verdict;

mod acquire;
mod config;
mod decision;
mod feedback;
mod inner;
mod keyed;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod policy;
mod queue_state;
mod quotas_in_force;
mod rejections;
mod reservation;
mod snapshot;
mod state;
mod storage;
mod striped_bucket;
mod token_bucket;
mod wait_queue;
mod wake_list;

pub use self::acquire::Acquire;
pub use self::config::RateLimiterBuilder;
pub use self::decision::Decision;
pub use self::keyed::{
    KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterBuilder, KeyedReservation, KeyedSnapshot,
    Limited,
};
pub use self::reservation::Reservation;
pub use self::snapshot::Snapshot;
pub use self::state::{Algorithm, Inherit, Quota};
#[doc(no_inline)]
pub use crate::keyed::Overflow;

use self::decision::Reading;
use self::inner::Inner;
use self::state::{Availability, Limit, Unavailable, are_same_kinds, limits, stripe};
use self::storage::{Settings, Storage};

/// Admits no more calls than its quotas allow. See the [module page](self).
///
/// Cheap to clone; clones share one limit.
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

impl RateLimiter {
    /// Returns a limiter with this quota and the default settings, on tokio's clock.
    ///
    /// # Errors
    ///
    /// If the quota is invalid.
    #[cfg(feature = "tokio")]
    pub fn new(quota: Quota) -> Result<Self, ConfigError> {
        Self::builder().quota(quota).build()
    }

    /// Takes one token if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::RateLimited`](crate::Reason::RateLimited), with the exact time after which the call would succeed.
    /// Also while other calls wait, because no call overtakes a waiter.
    // Inlined, like everything that it calls: a function call and a result in memory would add a tenth to its cost.
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<(), Rejected> {
        self.try_acquire_n(1)
    }

    /// Takes `cost` tokens if there are that many. A cost of zero is admitted unless the limit is in debt.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire`](Self::try_acquire);
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the limit never holds that many.
    #[inline(always)]
    pub fn try_acquire_n(&self, cost: u64) -> Result<(), Rejected> {
        let inner = &*self.inner;
        let now = inner.base.now();
        // The fast path returns here, so that it does not wait for values of the other paths.
        if let (Storage::Token(bucket), false) = (&inner.storage, inner.queue.is_closed()) {
            match bucket.attempt(now, cost) {
                Some(Ok(())) => return Ok(()),
                Some(Err(unavailable)) => return inner.reject_for(now, unavailable, None),
                None => {}
            }
        }
        cold_path();
        inner.try_acquire_slow(now, cost)
    }

    /// Takes `cost` tokens if there are that many. Returns the decision, with the state of the limit after it.
    ///
    /// In shadow mode, the decision is what would be enforced otherwise.
    pub fn decide(&self, cost: u64) -> Decision {
        let inner = &*self.inner;
        let now = inner.base.now();
        let (taken, reading) = inner.borrow(now, (cost, 0), Reading::of);
        let ready = taken.map(|_| ());
        if ready.is_err() {
            inner.rejections.count();
        }
        match reading {
            Some(reading) => Decision::new(now, ready, &reading),
            None => self.decision_behind_waiters(now, ready, cost),
        }
    }

    /// Returns what [`decide`](Self::decide) would return for a call that costs one token. Takes nothing.
    pub fn peek(&self) -> Decision {
        self.peek_n(1)
    }

    /// Returns what [`decide`](Self::decide) would return for a call that costs `cost`, except that
    /// `remaining` is what is left now. Takes nothing.
    pub fn peek_n(&self, cost: u64) -> Decision {
        let inner = &*self.inner;
        let now = inner.base.now();
        if inner.queue.is_closed() {
            let (ready, behind) = inner.queue.forecast(&inner.storage, now, cost, 0);
            if behind {
                return self.decision_behind_waiters(now, ready, cost);
            }
        }
        let limits = inner.storage.copy();
        Decision::new(now, limits.ready(now, cost, 0), &Reading::of(&limits, now))
    }

    /// Returns the decision about a call behind waiters, which need all available tokens, or during a pause.
    fn decision_behind_waiters(
        &self,
        now: Instant,
        ready: Result<(), Unavailable>,
        cost: u64,
    ) -> Decision {
        let Inner { queue, storage, .. } = &*self.inner;
        let more = match cost {
            1 => ready,
            _ => queue.forecast(storage, now, 1, 0).0,
        };
        let reading = Reading::of_closed(storage.availability(now), more);
        Decision::new(now, ready, &reading)
    }

    /// Waits for one token. See [`acquire_n`](Self::acquire_n).
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_n(1)
    }

    /// Waits for `cost` tokens behind all earlier waiters, without a time limit except the deadline
    /// inherited from the task.
    ///
    /// # Errors
    ///
    /// At once: [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) if the turn would come after
    /// the deadline, [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the limit never
    /// holds that many tokens, and [`Reason::RateLimited`](crate::Reason::RateLimited) if the wait queue
    /// is full. The first and the last have the time after which the call would succeed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the wait queue: the next waiter moves up, and no token is lost.
    pub fn acquire_n(&self, cost: u64) -> Acquire<'_> {
        self.acquire_within(cost, Duration::MAX)
    }

    /// Like [`acquire_n`](Self::acquire_n), but waits no longer than `longest`.
    ///
    /// # Errors
    ///
    /// Also [`Reason::RateLimited`](crate::Reason::RateLimited), at once, if the turn would come later
    /// than that.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_within(&self, cost: u64, longest: Duration) -> Acquire<'_> {
        Acquire::new(&self.inner, cost, longest)
    }

    /// Like [`acquire_n`](Self::acquire_n) for programs without a runtime: parks the thread.
    ///
    /// # Errors
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_blocking(&self, cost: u64) -> Result<(), Rejected> {
        crate::clock::blocking::block_on(self.acquire_n(cost))
    }

    /// Takes `cost` tokens now, for a call whose real cost is known only afterwards. If there are too few,
    /// the limit goes into debt, up to the builder's `max_debt`.
    ///
    /// The rate pays the debt before another call is admitted. [`Reservation::wait`] returns how long that
    /// takes.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n), if the debt would exceed its bound.
    pub fn reserve(&self, cost: u64) -> Result<Reservation, Rejected> {
        self.reserve_within(cost, Duration::MAX)
    }

    /// Like [`reserve`](Self::reserve), if the debt is paid within `longest`. Otherwise takes nothing.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve).
    pub fn reserve_within(&self, cost: u64, longest: Duration) -> Result<Reservation, Rejected> {
        Reservation::new(&self.inner, cost, longest)
    }

    /// Admits nothing for `duration`: calls wait, or are rejected with the time until the pause ends. Tokens are
    /// earned meanwhile. Of several pauses, the one that ends last applies.
    ///
    /// Use it for a `Retry-After` that applies to all callers.
    pub fn pause_for(&self, duration: Duration) {
        self.pause_until(self.inner.base.now() + duration);
    }

    /// Like [`pause_for`](Self::pause_for), until an instant on the limiter's clock.
    pub fn pause_until(&self, until: Instant) {
        let inner = &*self.inner;
        inner.queue.pause(&inner.storage, inner.base.now(), until);
    }

    /// Records the result of a call that was admitted manually, for
    /// [`adaptive`](RateLimiterBuilder::adaptive) and
    /// [`pause_on_hint`](RateLimiterBuilder::pause_on_hint). Calls through the policy record theirs.
    /// Without these settings it does nothing.
    pub fn record(&self, verdict: &Verdict) {
        if self.inner.feedback.is_some() {
            self.inner.learn_from(self.inner.base.now(), verdict);
        }
    }

    /// Adds `tokens`, up to what the quotas hold, and serves waiters that lacked them.
    pub fn add(&self, tokens: u64) {
        self.inner.give(None, tokens);
    }

    /// Replaces the quota. Tokens so far were earned at the old rate; `inherit` determines how many are kept.
    ///
    /// A call that races with the change is decided by either quota. Waiters are served by the new one.
    ///
    /// # Errors
    ///
    /// If the quota is invalid, has another algorithm than the one in force, or the limiter is adaptive.
    pub fn set_quota(&self, quota: Quota, inherit: Inherit) -> Result<(), ConfigError> {
        self.set_quotas(&[quota], inherit)
    }

    /// Like [`set_quota`](Self::set_quota), for a limiter with several quotas: all change at the same
    /// instant, in the order they were built with.
    ///
    /// # Errors
    ///
    /// As for [`set_quota`](Self::set_quota), and if the number of quotas differs.
    pub fn set_quotas(&self, quotas: &[Quota], inherit: Inherit) -> Result<(), ConfigError> {
        let inner = &*self.inner;
        let error = |problem| ConfigError::new("rate_limiter", "quota", problem);
        for quota in quotas {
            quota.check("rate_limiter")?;
        }
        let feedback = inner.feedback.as_ref();
        if feedback.is_some_and(|feedback| feedback.adaptive.is_some()) {
            return Err(error("cannot be set, because the limiter is adaptive"));
        }
        // Read before the lock, because a clock may be user code.
        let now = inner.base.now();
        inner
            .queue
            .change(&inner.storage, now, |storage, in_force| {
                if !are_same_kinds(in_force.quotas(), quotas) {
                    return Err(error("must have the same number and algorithms as before"));
                }
                let first = &quotas[0];
                let settings = match storage {
                    Storage::Token(_) => {
                        let gcra = first.gcra(inner.debt);
                        Settings::Token(gcra, gcra.with_initial(now, first.initial_tokens()))
                    }
                    Storage::StripedBucket(striped) => {
                        let rules = stripe(first, striped.len());
                        let rules = rules.ok_or(error("must hold a token for each stripe"))?;
                        Settings::StripedBucket(rules, first.initial_tokens())
                    }
                    Storage::Locked(_) => Settings::Locked(limits(quotas, now, inner.debt)),
                };
                storage.replace(now, settings, inherit);
                in_force.replace(quotas);
                Ok(())
            })
    }

    /// Returns a snapshot of the limiter. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let now = inner.base.now();
        let quotas = inner.queue.quotas();
        let (availability, each) = inner.storage.availabilities(now);
        let paused_until = inner.queue.paused_until(now).unwrap_or(now);
        let (rejections, shadow) = (inner.rejections.total(), inner.base.shadow);
        Snapshot {
            name: inner.base.name,
            quotas,
            available: each
                .iter()
                .map(|availability| availability.available)
                .collect(),
            remaining: availability.room(0),
            reset_after: availability.full_at.saturating_duration_since(now),
            waiting: inner.queue.waiting(),
            paused_for: paused_until.saturating_duration_since(now),
            rejected: if shadow { 0 } else { rejections },
            shadow,
            would_reject: if shadow { rejections } else { 0 },
        }
    }

    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }
}

impl RateLimiter {
    /// Returns when the limiter will be indistinguishable from a new one if it is not used until then.
    /// `None` while there is another handle or a waiter, and once it has found a rate.
    fn fresh_at(&self, now: Instant) -> Option<Instant> {
        let inner = &*self.inner;
        if !is_unshared(&self.inner) {
            return None;
        }
        if inner.queue.waiting() > 0 {
            inner.queue.settle(&inner.storage, now);
            if inner.queue.waiting() > 0 {
                return None;
            }
        }
        let forgotten_at = match &inner.feedback {
            Some(feedback) => feedback.forgotten_at()?,
            None => Instant::ORIGIN,
        };
        let open_at = inner.queue.paused_until(now).unwrap_or(now);
        Some(
            self.availability(now)
                .full_at
                .max(open_at)
                .max(forgotten_at),
        )
    }

    fn waiting(&self) -> usize {
        self.inner.queue.waiting()
    }

    fn availability(&self, now: Instant) -> Availability {
        self.inner.storage.availability(now)
    }
}

/// A limiter is evictable once it is full and not paused, has the quotas it was built with, and has neither waiters nor
/// other handles. If it is adaptive, it must have found no rate, and recorded no result for a minute.
impl Evictable for RateLimiter {
    fn evictable_in(&self) -> Option<Duration> {
        if !self.inner.queue.has_first_quotas() {
            return None;
        }
        let now = self.inner.base.now();
        Some(self.fresh_at(now)?.saturating_duration_since(now))
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimiter")
            .field(&self.snapshot())
            .finish()
    }
}
