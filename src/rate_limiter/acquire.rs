//! Waiting for tokens.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::inner::Inner;
use super::state::Unavailable;
use super::wait_queue::{Joined, Turn};
use super::wake_list::WakeList;
use crate::clock::{Alarm, ClockHandle};
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

pin_project! {
    /// Waits for tokens. Returned by [`RateLimiter::acquire`](super::RateLimiter::acquire).
    ///
    /// Does nothing before it is first polled. The first waiter watches the clock for the others: if its task does not
    /// run, they are delayed until another call uses the limiter, or another waiter is polled.
    ///
    /// It takes part in tokio's cooperative budget (feature `tokio`): a loop of acquisitions that are always ready
    /// occasionally yields to other tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the wait queue: the next waiter moves up, and no token is lost.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Acquire<'a> {
        inner: &'a Inner,
        cost: u64,
        longest: Duration,
        // When the wait ends: after `longest`, or at the deadline.
        latest: Instant,
        // The reason of the rejection at `latest`.
        reason: Reason,
        // Identifies the call in the wait queue.
        ticket: Option<u64>,
        // When the call joined the queue.
        since: Instant,
        // When its tokens were taken. If set when the future is dropped, they are returned.
        served: Option<Instant>,
        #[pin]
        alarm: Alarm,
    }

    impl PinnedDrop for Acquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(ticket) = this.ticket.take() {
                this.inner.leave(ticket, *this.cost);
            }
            if let Some(taken) = this.served.take() {
                this.inner.give(Some(taken), *this.cost);
            }
        }
    }
}

impl<'a> Acquire<'a> {
    pub(super) const fn new(inner: &'a Inner, cost: u64, longest: Duration) -> Self {
        Self {
            inner,
            cost,
            longest,
            latest: Instant::FAR_FUTURE,
            reason: Reason::DeadlineTooClose,
            ticket: None,
            since: Instant::ORIGIN,
            served: None,
            alarm: Alarm::new(),
        }
    }

    /// Returns whether the call is in the wait queue.
    pub(super) const fn is_queued(&self) -> bool {
        self.ticket.is_some()
    }

    pub(super) const fn inner(&self) -> &'a Inner {
        self.inner
    }

    pub(super) const fn cost(&self) -> u64 {
        self.cost
    }

    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner.base.clock
    }

    /// Polls for a call with this deadline. `now` is a reading of the limiter's clock.
    pub(super) fn poll_with(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        mut now: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Poll<Result<(), Rejected>> {
        let inner = self.inner;
        loop {
            let this = self.as_mut().project();
            let wake_at = match *this.ticket {
                None => {
                    *this.latest = now + *this.longest;
                    *this.reason = Reason::RateLimited;
                    if deadline != Instant::FAR_FUTURE && deadline <= *this.latest {
                        *this.latest = deadline;
                        *this.reason = Reason::DeadlineTooClose;
                    }
                    let (latest, shadow) = (*this.latest, inner.base.shadow);
                    let (unavailable, reason) =
                        match inner
                            .queue
                            .enter(&inner.storage, now, *this.cost, latest, shadow)
                        {
                            // The call would have waited, but in shadow mode no call waits.
                            Joined::Queued(_) if shadow => return Poll::Ready(Ok(())),
                            Joined::Taken => return Poll::Ready(Ok(())),
                            Joined::Queued(ticket) => {
                                *this.ticket = Some(ticket);
                                *this.since = now;
                                continue;
                            }
                            Joined::TooLate(unavailable) => (unavailable, *this.reason),
                            Joined::Full(unavailable) => (unavailable, Reason::RateLimited),
                        };
                    let rejected = inner.base.rejection(now, unavailable, reason);
                    return Poll::Ready(inner.reject(rejected, observer));
                }
                Some(ticket) => {
                    let waker = task.waker().clone();
                    // Dropped before this returns: if a waker panics, `served` makes the drop return the tokens.
                    let mut wakes = WakeList::default();
                    let turn = inner
                        .queue
                        .turn(&inner.storage, now, ticket, waker, &mut wakes);
                    if let Turn::Taken(at) = turn {
                        *this.ticket = None;
                        *this.served = Some(at);
                    }
                    drop(wakes);
                    let next = match turn {
                        Turn::Taken(_) => {
                            let waited = now.saturating_duration_since(*this.since);
                            let event = Event::waited(inner.base.name, waited);
                            inner.base.report(event, observer);
                            *this.served = None;
                            return Poll::Ready(Ok(()));
                        }
                        // A change of the quota may have moved the turn.
                        Turn::First(Unavailable::Until(at)) if at <= *this.latest => Ok(at),
                        Turn::First(unavailable) => Err(unavailable),
                        Turn::Behind if now < *this.latest => Ok(*this.latest),
                        Turn::Behind => Err(Unavailable::Until(Instant::FAR_FUTURE)),
                    };
                    match next {
                        Ok(wake_at) => wake_at,
                        Err(unavailable) => {
                            *this.ticket = None;
                            inner.queue.leave(&inner.storage, now, ticket, *this.cost);
                            let rejected =
                                inner.base.rejection(now, unavailable, Reason::QueueTimeout);
                            return Poll::Ready(inner.reject(rejected, observer));
                        }
                    }
                }
            };
            let clock = &inner.base.clock;
            let alarm = self.as_mut().project().alarm;
            ready!(alarm.poll_until(clock, wake_at, task));
            now = clock.now();
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<(), Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let starts = self.ticket.is_none();
        deadline::poll_inheriting(self.clock(), starts, task, |task, now, deadline| {
            self.poll_with(task, now, deadline, None)
        })
    }
}

impl std::fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.inner.base.name)
            .field("cost", &self.cost)
            .field("is_queued", &self.is_queued())
            .finish_non_exhaustive()
    }
}
