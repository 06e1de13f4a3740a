//! Waiting for the tokens of a key.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::super::RateLimiter;
use super::super::state::Unavailable;
use super::call_time::CallTime;
use super::limited::Limited;
use crate::clock::Sleep;
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::policy::OnUnwind;

pin_project! {
    /// Waits for tokens of a key. Returned by [`KeyedRateLimiter::acquire`](super::KeyedRateLimiter::acquire).
    ///
    /// Does nothing before it is first polled. The first waiter of a key watches the clock for the others of that
    /// key: if its task does not run, they are delayed until another call uses the key, or another waiter of the key is
    /// polled.
    ///
    /// It takes part in tokio's cooperative budget (feature `tokio`): a loop of acquisitions that are always ready
    /// occasionally yields to other tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the key's wait queue: the next waiter moves up, and no token is lost.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct KeyedAcquire<'a, Q>
    where
        Q: ToOwned,
        Q: ?Sized,
    {
        limited: Limited<'a, Q>,
        cost: u64,
        longest: Duration,
        // When the wait ends, and the reason of the rejection then.
        latest: Option<(Instant, Reason)>,
        since: Instant,
        #[pin]
        stage: Stage,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage {
        Start,
        // Waits for the end of a pause.
        Paused { #[pin] sleep: Sleep },
        // Waits in the queue of the key. The future owns a handle of the key's limiter.
        Queued { waiting: Pin<Box<dyn Future<Output = Result<RateLimiter, Rejected>> + Send>> },
    }
}

/// The next step of a call that asked for tokens.
enum Start {
    Run,
    WaitForEndOfPause(Instant),
    /// The key has no wait queue yet.
    NeedsQueue,
    WaitIn(RateLimiter),
    Reject(Unavailable),
}

impl<'a, Q> KeyedAcquire<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    pub(super) const fn new(limited: Limited<'a, Q>, cost: u64, longest: Duration) -> Self {
        Self {
            limited,
            cost,
            longest,
            latest: None,
            since: Instant::ORIGIN,
            stage: Stage::Start,
        }
    }

    /// Polls for a call with this deadline. `now` is a reading of the limiter's clock.
    pub(super) fn poll_with(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        mut now: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Poll<Result<(), Rejected>> {
        let mut this = self.project();
        let cost = *this.cost;
        let inner = this.limited.inner;
        let base = &inner.base;
        let mut reason = Reason::QueueTimeout;
        if this.latest.is_none() {
            let latest = now + *this.longest;
            reason = match deadline <= latest && deadline != Instant::FAR_FUTURE {
                true => Reason::DeadlineTooClose,
                false => Reason::RateLimited,
            };
            *this.latest = Some((latest.min(deadline), reason));
            *this.since = now;
        }
        let (latest, late) = this.latest.unwrap_or((Instant::FAR_FUTURE, reason));
        loop {
            match this.stage.as_mut().project() {
                StageProj::Start => {
                    let limiter = match this.limited.start(now, cost, latest) {
                        Start::Run => return Poll::Ready(Ok(())),
                        // In shadow mode no call waits.
                        Start::WaitForEndOfPause(_) if base.shadow => return Poll::Ready(Ok(())),
                        Start::WaitForEndOfPause(until) => {
                            let sleep = base.clock.sleep_until(until);
                            this.stage.set(Stage::Paused { sleep });
                            continue;
                        }
                        Start::NeedsQueue => match this.limited.queue() {
                            Some(limiter) => limiter,
                            // The key was evicted meanwhile, so its limit is full.
                            None => continue,
                        },
                        Start::WaitIn(limiter) => limiter,
                        Start::Reject(unavailable) => {
                            let rejected = base.rejection(now, unavailable, reason);
                            return Poll::Ready(inner.report(rejected, observer));
                        }
                    };
                    if base.shadow {
                        let Err(unavailable) = limiter.inner.join_detached(now, cost, latest)
                        else {
                            return Poll::Ready(Ok(()));
                        };
                        let rejected = base.rejection(now, unavailable, reason);
                        return Poll::Ready(inner.report(rejected, observer));
                    }
                    this.limited.is_new_call = false;
                    let longest = match latest {
                        Instant::FAR_FUTURE => Duration::MAX,
                        latest => latest.saturating_duration_since(now),
                    };
                    let waiting = Box::pin(async move {
                        limiter.acquire_within(cost, longest).await?;
                        Ok(limiter)
                    });
                    this.stage.set(Stage::Queued { waiting });
                }
                StageProj::Paused { sleep } => {
                    ready!(sleep.poll(task));
                    now = base.now();
                    reason = Reason::QueueTimeout;
                    this.limited.is_new_call = false;
                    this.stage.set(Stage::Start);
                }
                StageProj::Queued { waiting } => match ready!(waiting.as_mut().poll(task)) {
                    Ok(limiter) => {
                        // If a clock, a key, or an observer panics before the end of this block, the tokens are
                        // returned.
                        let refund = OnUnwind::new(|| limiter.add(cost));
                        now = base.now();
                        let is_paused = this.limited.is_paused(now);
                        if !is_paused {
                            let waited = now.saturating_duration_since(*this.since);
                            if !waited.is_zero() {
                                base.report(Event::waited(base.name, waited), observer);
                            }
                        }
                        refund.disarm();
                        if !is_paused {
                            return Poll::Ready(Ok(()));
                        }
                        // A pause began meanwhile, so the tokens are returned.
                        limiter.add(cost);
                        reason = Reason::QueueTimeout;
                        this.stage.set(Stage::Start);
                    }
                    Err(rejected) => {
                        let rejected = match rejected.reason() {
                            Reason::RateLimited => base.with_reason(rejected, late),
                            _ => rejected,
                        };
                        return Poll::Ready(inner.report(rejected, observer));
                    }
                },
            }
        }
    }
}

impl<Q> Limited<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    /// Takes `cost` tokens, or returns what the call must wait for, until `latest` at most.
    fn start(&self, now: Instant, cost: u64, latest: Instant) -> Start {
        let paused = |time: CallTime| match time.open <= latest && time.open != Instant::FAR_FUTURE
        {
            true => Start::WaitForEndOfPause(time.open),
            false => Start::Reject(Unavailable::Until(time.open)),
        };
        let start = self.inner.with(
            (self.hash, self.key),
            now,
            self.is_new_call,
            |tat, gcra, time| {
                if time.is_paused() {
                    return paused(time);
                }
                match gcra.take(*tat, now, cost) {
                    Ok(next) => {
                        *tat = next;
                        Start::Run
                    }
                    Err(Unavailable::Until(turn)) if turn <= latest => Start::NeedsQueue,
                    Err(unavailable) => Start::Reject(unavailable),
                }
            },
            |limiter, time| match time.is_paused() {
                true => paused(time),
                false => Start::WaitIn(limiter.clone()),
            },
        );
        start.unwrap_or(Start::Reject(Unavailable::Until(Instant::FAR_FUTURE)))
    }

    /// Returns the limiter of the key, for calls that wait and for reservations. A plain key gets one in place of its
    /// word. `None` if the key is not in the table.
    pub(super) fn queue(&self) -> Option<RateLimiter> {
        let mut table = self.inner.keys.shard(self.hash)?;
        let make = |gcra, tat, is_default| self.inner.limiter_of(gcra, tat, is_default);
        table.limiter(self.hash as u32, self.key, &self.inner.keys.default, make)
    }

    /// Returns whether the key is paused.
    fn is_paused(&self, now: Instant) -> bool {
        let (inner, is_paused) = (self.inner, |time: CallTime| time.is_paused());
        let of_key = inner.with_known(
            self.hash,
            self.key,
            now,
            |_, _, time| is_paused(time),
            |_, time| is_paused(time),
        );
        of_key.unwrap_or_else(|| is_paused(inner.time(now)))
    }
}

impl<Q> Future for KeyedAcquire<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    type Output = Result<(), Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let (inner, starts) = (self.limited.inner, self.latest.is_none());
        deadline::poll_inheriting(&inner.base.clock, starts, task, |task, now, deadline| {
            self.poll_with(task, now, deadline, None)
        })
    }
}

impl<Q: ToOwned + ?Sized> std::fmt::Debug for KeyedAcquire<'_, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedAcquire")
            .field("limiter", &self.limited.inner.base.name)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
