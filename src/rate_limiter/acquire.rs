//! Waiting for tokens.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::inner::Inner;
use super::queue::{Entry, Turn};
use super::state::Refusal;
use super::wakes::Wakes;
use crate::clock::{ClockHandle, Sleep};
use crate::coop;
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

pin_project! {
    /// Waits for tokens. Made by [`RateLimiter::acquire`](super::RateLimiter::acquire).
    ///
    /// Does nothing before it is first polled. The first in the line watches the clock for the others: one
    /// that is not polled delays them until some other call uses the limiter.
    ///
    /// It takes part in tokio's cooperative budget (feature `tokio`): a loop of acquires that are always
    /// ready yields to other tasks now and then.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the line: the next moves up, and no token is lost.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Acquire<'a> {
        inner: &'a Inner,
        cost: u64,
        longest: Duration,
        // As the limits count time.
        latest: Instant,
        // What is to blame when `latest` is too early.
        reason: Reason,
        // The place in the line, once it has one.
        ticket: Option<u64>,
        // When it got that.
        since: Instant,
        // When the tokens it was served with count as taken, as long as they may have to go back.
        served: Option<Instant>,
        timer_at: Instant,
        #[pin]
        timer: Option<Sleep>,
    }

    impl PinnedDrop for Acquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            leave(this.inner, this.ticket, *this.cost);
            if let Some(taken) = this.served.take() {
                this.inner.give(Some(taken), *this.cost);
            }
        }
    }
}

/// Gives up the place in the line.
fn leave(inner: &Inner, ticket: &mut Option<u64>, cost: u64) {
    if let Some(ticket) = ticket.take() {
        inner
            .queue
            .leave(&inner.core, inner.base.now(), ticket, cost);
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
            timer_at: Instant::FAR_FUTURE,
            timer: None,
        }
    }

    /// Whether it has a place in the line.
    pub(super) const fn is_queued(&self) -> bool {
        self.ticket.is_some()
    }

    pub(super) const fn inner(&self) -> &'a Inner {
        self.inner
    }

    /// The limiter's clock.
    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner.base.clock
    }

    /// Polls it for a call that has this deadline, on the limiter's clock, which reads `now`.
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
                    let (refusal, reason) =
                        match inner
                            .queue
                            .enter(&inner.core, now, *this.cost, latest, shadow)
                        {
                            Entry::Taken => return Poll::Ready(Ok(())),
                            // It would have waited. In shadow mode nothing waits.
                            Entry::Queued(_) if shadow => return Poll::Ready(Ok(())),
                            Entry::Queued(ticket) => {
                                *this.ticket = Some(ticket);
                                *this.since = now;
                                continue;
                            }
                            Entry::TooLate(refusal) => (refusal, *this.reason),
                            Entry::Full(refusal) => (refusal, Reason::RateLimited),
                        };
                    let rejected = inner.base.rejection(now, refusal, reason);
                    return Poll::Ready(inner.reject(rejected, observer));
                }
                Some(ticket) => {
                    let waker = task.waker().clone();
                    // Dropped before it returns: a waker may panic, and the tokens go back then.
                    let mut wakes = Wakes::default();
                    let place = (ticket, *this.latest);
                    let turn = inner.queue.turn(&inner.core, now, place, waker, &mut wakes);
                    if let Turn::Taken(at) = turn {
                        *this.ticket = None;
                        *this.served = Some(at);
                    }
                    drop(wakes);
                    let too_late = match turn {
                        Turn::Taken(_) => {
                            let waited = now.saturating_duration_since(*this.since);
                            let event = Event::waited(inner.base.name, waited);
                            inner.base.tell(event, observer);
                            *this.served = None;
                            return Poll::Ready(Ok(()));
                        }
                        // The quota may have changed meanwhile, and with it what was foreseen.
                        Turn::First(Refusal::Until(at)) if at <= *this.latest => Ok(at),
                        Turn::First(refusal) => Err(refusal),
                        Turn::Behind if now < *this.latest => Ok(*this.latest),
                        Turn::Behind => Err(Refusal::Until(Instant::FAR_FUTURE)),
                    };
                    match too_late {
                        Ok(wake_at) => wake_at,
                        Err(refusal) => {
                            leave(inner, this.ticket, *this.cost);
                            let rejected = inner.base.rejection(now, refusal, Reason::QueueTimeout);
                            return Poll::Ready(inner.reject(rejected, observer));
                        }
                    }
                }
            };
            let mut this = self.as_mut().project();
            if this.timer.is_none() || *this.timer_at != wake_at {
                let sleep = match wake_at {
                    Instant::FAR_FUTURE => Sleep::never(),
                    _ => inner.base.clock.sleep_until(wake_at),
                };
                this.timer.set(Some(sleep));
                *this.timer_at = wake_at;
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(task));
            }
            this.timer.set(None);
            now = inner.base.clock.now();
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<(), Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(task));
        let clock = &self.inner.base.clock;
        let now = clock.now();
        let deadline = match self.ticket {
            None => deadline::inherited(clock, now),
            Some(_) => Instant::FAR_FUTURE,
        };
        let poll = self.poll_with(task, now, deadline, None);
        if poll.is_ready() {
            budget.made_progress();
        }
        poll
    }
}

impl std::fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.inner.base.name)
            .field("cost", &self.cost)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
