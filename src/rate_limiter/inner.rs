//! State shared by the clones of a limiter.

use std::time::Duration;

use super::feedback::Feedback;
use super::rejections::Rejections;
use super::state::{Inherit, Limit, Quota, Unavailable};
use super::storage::{Settings, Storage};
use super::wait_queue::{Joined, WaitQueue};
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};
use crate::verdict::Verdict;

pub(super) struct Inner {
    pub(super) storage: Storage,
    pub(super) queue: WaitQueue,
    pub(super) base: Base,
    /// Longest wait of a call through the policy, in nanoseconds.
    pub(super) max_wait: AtomicU64,
    pub(super) debt: u64,
    /// `None` if results of calls change nothing.
    pub(super) feedback: Option<Box<Feedback>>,
    /// Rejected calls; in shadow mode, calls that would have been rejected.
    pub(super) rejections: Rejections,
}

impl Inner {
    /// Returns the longest wait of a call through the policy.
    pub(super) fn max_wait(&self) -> Duration {
        // Relaxed: the setting publishes nothing else.
        match self.max_wait.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        }
    }

    /// The slow path of `try_acquire_n`: after a lost race for the token bucket, behind waiters, or with
    /// another storage.
    #[inline(never)]
    pub(super) fn try_acquire_slow(&self, now: Instant, cost: u64) -> Result<(), Rejected> {
        match self.take_slow(now, cost) {
            Ok(()) => Ok(()),
            Err(unavailable) => self.reject_for(now, unavailable, None),
        }
    }

    /// The slow path of [`take`](Self::take).
    #[inline(never)]
    pub(super) fn take_slow(&self, now: Instant, cost: u64) -> Result<(), Unavailable> {
        if self.queue.is_closed() {
            return self.queue.take(&self.storage, now, cost);
        }
        self.storage.take(now, cost)
    }

    /// Takes tokens for a call of shadow mode, or joins the wait queue for it without making it wait. Fails if the
    /// call would be rejected.
    pub(super) fn join_detached(
        &self,
        now: Instant,
        cost: u64,
        latest: Instant,
    ) -> Result<(), Unavailable> {
        match self.queue.enter(&self.storage, now, cost, latest, true) {
            Joined::Taken | Joined::Queued(_) => Ok(()),
            Joined::TooLate(unavailable) | Joined::Full(unavailable) => Err(unavailable),
        }
    }

    /// Takes tokens without waiting and without overtaking waiters.
    #[inline(always)]
    pub(super) fn take(&self, now: Instant, cost: u64) -> Result<(), Unavailable> {
        if let (Storage::Token(bucket), false) = (&self.storage, self.queue.is_closed()) {
            if let Some(taken) = bucket.attempt(now, cost) {
                return taken;
            }
        }
        self.take_slow(now, cost)
    }

    /// Like [`take`](Self::take), leaving no more than `debt` tokens of debt, and reads the state afterwards. Returns
    /// the instant as of which the tokens are taken. The state is `None` behind waiters or during a pause.
    pub(super) fn borrow<R>(
        &self,
        now: Instant,
        (cost, debt): (u64, u64),
        read: impl Fn(&dyn Limit, Instant) -> R,
    ) -> (Result<Instant, Unavailable>, Option<R>) {
        if self.queue.is_closed() {
            return self.queue.borrow(&self.storage, now, (cost, debt), read);
        }
        let (taken, read) = self.storage.borrow(now, (cost, debt), read);
        (taken, Some(read))
    }

    /// Rejects a call, or admits it in shadow mode.
    #[inline]
    pub(super) fn reject_for(
        &self,
        now: Instant,
        unavailable: Unavailable,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if self.base.reports_rejections(observer) {
            return self.reject_and_report(now, unavailable, observer);
        }
        self.rejections.count();
        Err(self.base.rejection(now, unavailable, Reason::RateLimited))
    }

    // Creates its own rejection: one passed by reference would have to be in memory before it is needed.
    #[cold]
    fn reject_and_report(
        &self,
        now: Instant,
        unavailable: Unavailable,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.reject(
            self.base.rejection(now, unavailable, Reason::RateLimited),
            observer,
        )
    }

    pub(super) fn reject(
        &self,
        rejected: Rejected,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.rejections.count();
        self.base.reject(rejected, observer)
    }

    /// Records the result of a call that this limiter admitted.
    #[cold]
    #[inline(never)]
    pub(super) fn learn_from(&self, now: Instant, verdict: &Verdict) {
        let Some(feedback) = &self.feedback else {
            return;
        };
        if let Some(pause) = feedback.pause(verdict) {
            self.queue.pause(&self.storage, now, now + pause);
        }
        // Other threads may find new rates meanwhile. Two rounds bound the work of this call.
        let mut found = feedback.learn(now, verdict);
        for is_last in [false, true] {
            let Some(quota) = found else {
                return;
            };
            self.apply_found(now, quota);
            found = feedback.applied(quota, is_last);
        }
    }

    /// Applies the quota of an adaptive limiter.
    pub(super) fn apply_found(&self, now: Instant, quota: Quota) {
        self.queue.change(&self.storage, now, |storage, in_force| {
            let gcra = quota.gcra(self.debt);
            let tat = gcra.with_initial(now, quota.initial_tokens());
            storage.replace(now, Settings::Token(gcra, tat), Inherit::AsIs);
            in_force.replace(&[quota]);
        });
    }

    /// Returns tokens, as of the time at which they were taken if that is known. Loses none if the clock panics.
    pub(super) fn give(&self, taken: Option<Instant>, tokens: u64) {
        if tokens == 0 {
            return;
        }
        self.base.at_now_or(Instant::ORIGIN, |now| {
            self.queue.change(&self.storage, now, |storage, _| {
                storage.give(now, taken, tokens)
            });
        });
    }

    /// Removes a waiter from the queue, or returns the tokens it was served with, even if the clock panics.
    pub(super) fn leave(&self, ticket: u64, cost: u64) {
        self.base.at_now_or(Instant::ORIGIN, |now| {
            self.queue.leave(&self.storage, now, ticket, cost);
        });
    }

    /// Charges tokens that have already been consumed. If the clock panics, as of `taken`.
    pub(super) fn charge(&self, taken: Instant, tokens: u64) {
        self.base
            .at_now_or(taken, |now| self.charge_at(now, tokens));
    }

    /// Charges tokens that have already been consumed, and updates the forecasts for waiters.
    pub(super) fn charge_at(&self, now: Instant, tokens: u64) {
        self.queue.change(&self.storage, now, |storage, _| {
            storage.charge(now, tokens, self.debt);
        });
    }
}
