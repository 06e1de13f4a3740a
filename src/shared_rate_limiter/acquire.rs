//! Waiting for tokens of a shared limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::entry::{Arrival, Entry};
use super::queue::Decided;
use super::state::pocket::Spent;
use crate::clock::{ClockHandle, Sleep};
use crate::coop;
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

pin_project! {
    /// Takes tokens of a shared limit. Made by
    /// [`SharedRateLimiter::try_acquire`](super::SharedRateLimiter::try_acquire) and
    /// [`SharedRateLimiter::acquire`](super::SharedRateLimiter::acquire).
    ///
    /// Does nothing before it is first polled. It takes part in tokio's cooperative budget (feature `tokio`).
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the wait queue. Tokens that were granted for it stay with the
    /// process, for the next call.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Acquire<'a> {
        entry: &'a Arc<Entry>,
        cost: u64,
        longest: Duration,
        // Set when it joins the wait queue.
        ticket: Option<u64>,
        since: Instant,
        latest: Instant,
        late: Reason,
        // Its tokens, while they may have to go back.
        taken: u64,
        timer_at: Instant,
        #[pin]
        timer: Option<Sleep>,
    }

    impl PinnedDrop for Acquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let (entry, cost) = (*this.entry, *this.cost);
            let (ticket, taken) = (this.ticket.take(), std::mem::take(this.taken));
            if ticket.is_none() && taken == 0 {
                return;
            }
            entry.hub.base.at_now_or(Instant::ORIGIN, |now| {
                if let Some(ticket) = ticket {
                    entry.leave(now, ticket, cost);
                }
                if taken > 0 {
                    entry.with(now, |state, _, _| state.lease.put_back(now, taken));
                }
            });
        }
    }
}

impl<'a> Acquire<'a> {
    pub(super) const fn new(entry: &'a Arc<Entry>, cost: u64, longest: Duration) -> Self {
        Self {
            entry,
            cost,
            longest,
            ticket: None,
            since: Instant::ORIGIN,
            latest: Instant::FAR_FUTURE,
            late: Reason::QueueTimeout,
            taken: 0,
            timer_at: Instant::FAR_FUTURE,
            timer: None,
        }
    }

    /// Returns the limiter's clock.
    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.entry.hub.base.clock
    }

    /// Returns whether it waits in the queue.
    pub(super) const fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Polls it for a call that has this deadline, on the limiter's clock, which reads `now`.
    pub(super) fn poll_with(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        mut now: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Poll<Result<(), Rejected>> {
        let hub = &*self.entry.hub;
        loop {
            let this = self.as_mut().project();
            let entry = *this.entry;
            let Some(ticket) = *this.ticket else {
                let waits = !this.longest.is_zero() && !hub.base.shadow;
                *this.since = now;
                *this.latest = deadline;
                *this.late = Reason::DeadlineTooClose;
                let mut until = None;
                if waits {
                    let longest = now + *this.longest;
                    if longest < deadline {
                        (*this.latest, *this.late) = (longest, Reason::QueueTimeout);
                    }
                    until = Some(*this.latest);
                }
                match entry.arrive(now, *this.cost, until) {
                    Arrival::Admitted => return Poll::Ready(Ok(())),
                    Arrival::Waits(ticket) => *this.ticket = Some(ticket),
                    Arrival::Rejected(mut reason, ready) => {
                        if waits && *this.late == Reason::DeadlineTooClose && ready > *this.latest {
                            reason = Reason::DeadlineTooClose;
                        }
                        return Poll::Ready(hub.reject(now, reason, Some(ready), observer));
                    }
                    Arrival::Never => {
                        let reason = Reason::CostExceedsLimit;
                        return Poll::Ready(hub.reject(now, reason, None, observer));
                    }
                }
                continue;
            };
            let wake_at = match entry.turn(now, ticket, task.waker()) {
                Ok(decided) => {
                    *this.ticket = None;
                    return Poll::Ready(match decided {
                        Decided::Admitted => {
                            *this.taken = *this.cost;
                            if !this.longest.is_zero() {
                                let waited = now.saturating_duration_since(*this.since);
                                hub.base
                                    .tell(Event::waited(hub.base.name, waited), observer);
                            }
                            *this.taken = 0;
                            Ok(())
                        }
                        Decided::Rejected(reason, ready) => {
                            hub.reject(now, reason, Some(ready), observer)
                        }
                    });
                }
                Err(_) if now >= *this.latest => {
                    *this.ticket = None;
                    entry.leave(now, ticket, *this.cost);
                    return Poll::Ready(hub.reject(now, *this.late, None, observer));
                }
                Err(look_at) => look_at.min(*this.latest),
            };
            let mut this = self.as_mut().project();
            if this.timer.is_none() || *this.timer_at != wake_at {
                let sleep = match wake_at {
                    Instant::FAR_FUTURE => Sleep::never(),
                    _ => hub.base.clock.sleep_until(wake_at),
                };
                this.timer.set(Some(sleep));
                *this.timer_at = wake_at;
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(task));
            }
            this.timer.set(None);
            now = hub.base.now();
        }
    }

    #[inline(never)]
    fn poll_slow(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        now: Instant,
    ) -> Poll<Result<(), Rejected>> {
        let deadline = match self.ticket {
            None => deadline::inherited(self.clock(), now),
            Some(_) => Instant::FAR_FUTURE,
        };
        self.poll_with(task, now, deadline, None)
    }

    /// Tries the tokens held, without a lock. `None` if that does not decide.
    #[inline(always)]
    pub(super) fn try_held(
        entry: &Arc<Entry>,
        now: Instant,
        cost: u64,
        waits: bool,
        observer: Option<&dyn Observer>,
    ) -> Option<Result<(), Rejected>> {
        match entry.pocket.spend(now, cost) {
            Spent::Taken => Some(Ok(())),
            Spent::TakenLow => {
                entry.refresh(now);
                Some(Ok(()))
            }
            Spent::Rejected(ready) if !waits => Some(entry.hub.reject(
                now,
                Reason::RateLimited,
                Some(ready),
                observer,
            )),
            Spent::Rejected(_) | Spent::Unknown => None,
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<(), Rejected>;

    // Inlined, and the wait out of line: inside a lease all else is a few instructions.
    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(task));
        let now = self.clock().now();
        if self.ticket.is_none() {
            if self.cost == 0 {
                return Poll::Ready(Ok(()));
            }
            let waits = !self.longest.is_zero();
            if let Some(result) = Acquire::try_held(self.entry, now, self.cost, waits, None) {
                budget.made_progress();
                return Poll::Ready(result);
            }
        }
        let poll = self.poll_slow(task, now);
        if poll.is_ready() {
            budget.made_progress();
        }
        poll
    }
}

impl std::fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.entry.hub.base.name)
            .field("key", &self.entry.key)
            .field("cost", &self.cost)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
