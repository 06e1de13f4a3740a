//! What the clones of a limiter share.

use std::time::Duration;

use super::core::{Core, Settings};
use super::feedback::Feedback;
use super::queue::Queue;
use super::rejections::Rejections;
use super::state::{Inherit, Refusal};
use super::token_bucket::Borrowed;
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};
use crate::verdict::Verdict;

pub(super) struct Inner {
    pub(super) core: Core,
    pub(super) queue: Queue,
    pub(super) base: Base,
    /// How long a call through the policy may wait, in nanoseconds.
    pub(super) max_wait: AtomicU64,
    pub(super) debt: u64,
    /// What it learns from results, if it does.
    pub(super) feedback: Option<Box<Feedback>>,
    /// Rejected calls; in shadow mode those that would have been.
    pub(super) rejections: Rejections,
}

impl Inner {
    /// How long a call through the policy may wait.
    pub(super) fn max_wait(&self) -> Duration {
        // Relaxed: a setting that stands for itself.
        match self.max_wait.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        }
    }

    /// Takes tokens for a caller that has lost a race for the token bucket, comes behind a line, or has
    /// another limit.
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
        if self.queue.is_closed() {
            return self.queue.take(&self.core, now, cost);
        }
        self.core.take(now, cost)
    }

    /// Takes tokens without waiting and without overtaking waiters.
    #[inline(always)]
    pub(super) fn take(&self, now: Instant, cost: u64) -> Result<(), Refusal> {
        if let (Core::Token(bucket), false) = (&self.core, self.queue.is_closed()) {
            if let Some(taken) = bucket.attempt(now, cost) {
                return taken;
            }
        }
        self.take_otherwise(now, cost)
    }

    /// As [`take`](Self::take), leaving no more than `debt` tokens in debt. `None` behind a line.
    pub(super) fn borrow(
        &self,
        now: Instant,
        cost: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Option<Borrowed>) {
        if self.queue.is_closed() {
            return self.queue.borrow(&self.core, now, cost, debt);
        }
        let (ready, borrowed) = self.core.borrow(now, cost, debt);
        (ready, Some(borrowed))
    }

    /// Rejects, or in shadow mode admits what would have been rejected.
    #[inline]
    pub(super) fn refuse(
        &self,
        now: Instant,
        refusal: Refusal,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if self.base.reports_rejections(observer) {
            return self.refuse_aloud(now, refusal, observer);
        }
        self.rejections.count();
        Err(self.base.rejection(now, refusal, Reason::RateLimited))
    }

    // Makes a rejection of its own: one that was handed over would have to be in memory before it is
    // known whether it is needed there.
    #[cold]
    fn refuse_aloud(
        &self,
        now: Instant,
        refusal: Refusal,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.reject(
            self.base.rejection(now, refusal, Reason::RateLimited),
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

    /// Learns from the result of a call that this limiter admitted.
    #[cold]
    #[inline(never)]
    pub(super) fn learn_from(&self, now: Instant, verdict: &Verdict) {
        let Some(feedback) = &self.feedback else {
            return;
        };
        if let Some(pause) = feedback.pause(verdict) {
            self.queue.pause(&self.core, now, now + pause);
        }
        // Other calls may find rates meanwhile; this one applies a bounded number of them.
        let mut found = feedback.learn(now, verdict);
        for is_last in [false, true] {
            let Some(quota) = found else {
                return;
            };
            self.queue.change(&self.core, now, |core, terms| {
                let gcra = quota.gcra(self.debt);
                let tat = gcra.holding(now, quota.first());
                core.replace(now, Settings::Token(gcra, tat), Inherit::AsIs);
                terms.replace(&[quota]);
            });
            found = feedback.applied(quota, is_last);
        }
    }

    /// Gives tokens back, those taken at `taken` if that is known.
    pub(super) fn give(&self, taken: Option<Instant>, tokens: u64) {
        if tokens > 0 {
            let now = self.base.now();
            self.queue
                .change(&self.core, now, |core, _| core.give(now, taken, tokens));
        }
    }
}
