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
use crate::clock::{Alarm, ClockHandle};
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

/// Returns the reason for rejecting a call: its deadline, if it waits and its turn comes after that.
const fn too_late(reason: Reason, waits: bool, late: Reason, is_late: bool) -> Reason {
    match late {
        Reason::DeadlineTooClose if waits && is_late => late,
        _ => reason,
    }
}

pin_project! {
    /// Takes tokens of a shared limit. Returned by
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
        // Set once the call has joined the wait queue.
        ticket: Option<u64>,
        since: Instant,
        latest: Instant,
        late: Reason,
        // Tokens taken for the call that may still have to be returned.
        taken: u64,
        #[pin]
        alarm: Alarm,
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
            alarm: Alarm::new(),
        }
    }

    /// Returns the limiter's clock.
    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.entry.hub.base.clock
    }

    /// Returns whether the call is in the wait queue.
    pub(super) const fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Polls for a call with this deadline. `now` is a reading of the limiter's clock.
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
            // Otherwise it only awaits an answer of the store.
            let waits = !this.longest.is_zero() && !hub.base.shadow;
            let Some(ticket) = *this.ticket else {
                *this.since = now;
                let longest = if waits { *this.longest } else { Duration::MAX };
                (*this.latest, *this.late) = deadline::end_of_wait(now, longest, deadline);
                let until = waits.then_some(*this.latest);
                // A panic goes on once dropping this future undoes the arrival.
                let (arrival, panics) = entry.arrive(now, *this.cost, until);
                match arrival {
                    Arrival::Admitted => *this.taken = *this.cost,
                    Arrival::Waits(ticket) => *this.ticket = Some(ticket),
                    Arrival::Rejected(..) | Arrival::Never => {}
                }
                panics.resume();
                match arrival {
                    Arrival::Admitted => {
                        *this.taken = 0;
                        return Poll::Ready(Ok(()));
                    }
                    Arrival::Waits(_) => {}
                    Arrival::Rejected(reason, ready) => {
                        let reason = too_late(reason, waits, *this.late, ready > *this.latest);
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
                            if waits {
                                let waited = now.saturating_duration_since(*this.since);
                                hub.base
                                    .report(Event::waited(hub.base.name, waited), observer);
                            }
                            *this.taken = 0;
                            Ok(())
                        }
                        Decided::Rejected(reason, ready) => {
                            let reason = too_late(reason, waits, *this.late, ready > *this.latest);
                            hub.reject(now, reason, Some(ready), observer)
                        }
                        Decided::Never => hub.reject(now, Reason::CostExceedsLimit, None, observer),
                    });
                }
                Err(_) if now >= *this.latest => {
                    *this.ticket = None;
                    entry.leave(now, ticket, *this.cost);
                    return Poll::Ready(hub.reject(now, *this.late, None, observer));
                }
                Err(poll_at) => poll_at.min(*this.latest),
            };
            let alarm = self.as_mut().project().alarm;
            ready!(alarm.poll_until(&hub.base.clock, wake_at, task));
            now = hub.base.now();
        }
    }

    #[inline(never)]
    fn poll_slow(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        now: Instant,
        deadline: Instant,
    ) -> Poll<Result<(), Rejected>> {
        self.poll_with(task, now, deadline, None)
    }

    /// Tries the tokens held, without a lock. Returns `None` if the lock is needed to decide.
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
                entry.refresh(now, cost);
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

    // Inlined, with the wait out of line: a call admitted from the lease takes only a few instructions.
    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let starts = self.ticket.is_none();
        if starts && self.cost == 0 {
            return Poll::Ready(Ok(()));
        }
        deadline::poll_inheriting(self.clock(), starts, task, |task, now, deadline| {
            if starts {
                let waits = !self.longest.is_zero();
                if let Some(result) = Acquire::try_held(self.entry, now, self.cost, waits, None) {
                    return Poll::Ready(result);
                }
            }
            self.poll_slow(task, now, deadline)
        })
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
