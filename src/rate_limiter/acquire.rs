//! Waiting for tokens.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::queue::{Entry, Turn};
use super::state::Refusal;
use super::{Inner, RateLimiter};
use crate::clock::{ClockHandle, Sleep};
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;

pin_project! {
    /// Waits for tokens. Made by [`RateLimiter::acquire`].
    ///
    /// Does nothing before it is first polled. Who is first in the line and is not polled keeps the
    /// others waiting.
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
        timer_at: Instant,
        #[pin]
        timer: Option<Sleep>,
    }

    impl PinnedDrop for Acquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            leave(this.inner, this.ticket);
        }
    }
}

/// Gives up the place in the line, and wakes who is the first now.
fn leave(inner: &Inner, ticket: &mut Option<u64>) {
    if let Some(waker) = ticket.take().and_then(|ticket| inner.queue.leave(ticket)) {
        waker.wake();
    }
}

impl<'a> Acquire<'a> {
    pub(super) fn new(limiter: &'a RateLimiter, cost: u64, longest: Duration) -> Self {
        Self {
            inner: &limiter.inner,
            cost,
            longest,
            latest: Instant::FAR_FUTURE,
            reason: Reason::DeadlineTooClose,
            ticket: None,
            timer_at: Instant::FAR_FUTURE,
            timer: None,
        }
    }

    /// Whether it has a place in the line.
    pub(super) const fn is_queued(&self) -> bool {
        self.ticket.is_some()
    }

    /// The limiter's clock.
    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner.outside.clock
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
                    if inner.shadow {
                        return Poll::Ready(match inner.take(now, *this.cost) {
                            Ok(()) => Ok(()),
                            Err(refusal) => inner.refuse(now, refusal, observer),
                        });
                    }
                    let latest = *this.latest;
                    let (refusal, reason) =
                        match inner.queue.enter(&inner.core, now, *this.cost, latest) {
                            Entry::Taken => return Poll::Ready(Ok(())),
                            Entry::Queued(ticket) => {
                                *this.ticket = Some(ticket);
                                continue;
                            }
                            Entry::TooLate(refusal) => (refusal, *this.reason),
                            Entry::Full(refusal) => (refusal, Reason::RateLimited),
                        };
                    let rejected = inner.outside.rejected(now, refusal, reason);
                    return Poll::Ready(inner.reject(rejected, observer));
                }
                Some(ticket) => {
                    let waker = task.waker().clone();
                    let too_late = match inner.queue.turn(&inner.core, now, ticket, waker) {
                        Turn::Taken(next) => {
                            *this.ticket = None;
                            if let Some(next) = next {
                                next.wake();
                            }
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
                            leave(inner, this.ticket);
                            let rejected =
                                inner.outside.rejected(now, refusal, Reason::QueueTimeout);
                            return Poll::Ready(inner.reject(rejected, observer));
                        }
                    }
                }
            };
            let mut this = self.as_mut().project();
            if this.timer.is_none() || *this.timer_at != wake_at {
                let sleep = match wake_at {
                    Instant::FAR_FUTURE => Sleep::never(),
                    _ => inner.outside.clock.sleep_until(wake_at),
                };
                this.timer.set(Some(sleep));
                *this.timer_at = wake_at;
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(task));
            }
            this.timer.set(None);
            now = inner.outside.clock.now();
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<(), Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let clock = &self.inner.outside.clock;
        let now = clock.now();
        let deadline = match self.ticket {
            None => deadline::inherited(clock, now),
            Some(_) => Instant::FAR_FUTURE,
        };
        self.poll_with(task, now, deadline, None)
    }
}

impl std::fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.inner.outside.name)
            .field("cost", &self.cost)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
