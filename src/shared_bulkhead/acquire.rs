//! Waiting for permits of a shared bulkhead.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::inner::{Arrival, Inner, Turn};
use super::permit::Permit;
use crate::clock::{Alarm, ClockHandle};
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

pin_project! {
    /// Takes permits of a shared bulkhead. Returned by
    /// [`SharedBulkhead::try_acquire`](super::SharedBulkhead::try_acquire) and
    /// [`SharedBulkhead::acquire`](super::SharedBulkhead::acquire).
    ///
    /// Does nothing before it is first polled. It takes part in tokio's cooperative budget (feature `tokio`).
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the wait queue, and permits that it had got already.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Acquire<'a> {
        inner: &'a Arc<Inner>,
        permits: u64,
        longest: Duration,
        ticket: Option<u64>,
        since: Instant,
        latest: Instant,
        late: Reason,
        #[pin]
        alarm: Alarm,
    }

    impl PinnedDrop for Acquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(ticket) = this.ticket.take() {
                let (inner, permits) = (*this.inner, *this.permits);
                let leave = |now| inner.leave(now, ticket, permits);
                inner.base.at_now_or(Instant::ORIGIN, leave);
            }
        }
    }
}

impl<'a> Acquire<'a> {
    pub(super) const fn new(inner: &'a Arc<Inner>, permits: u64, longest: Duration) -> Self {
        Self {
            inner,
            permits,
            longest,
            ticket: None,
            since: Instant::ORIGIN,
            latest: Instant::FAR_FUTURE,
            late: Reason::QueueTimeout,
            alarm: Alarm::new(),
        }
    }

    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner.base.clock
    }

    pub(super) const fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Polls for a call with this deadline. `now` is a reading of the bulkhead's clock.
    pub(super) fn poll_with(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        mut now: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Poll<Result<Permit, Rejected>> {
        let inner = self.inner;
        let rejected = |reason| {
            let admitted = inner.reject(reason, observer);
            // In shadow mode, a call that would have been rejected holds no permits.
            Poll::Ready(admitted.map(|()| Permit::new(inner.clone(), 0)))
        };
        loop {
            let this = self.as_mut().project();
            let permits = *this.permits;
            // Otherwise it only awaits an answer of the store.
            let waits = !this.longest.is_zero() && !inner.base.shadow;
            let Some(ticket) = *this.ticket else {
                if permits == 0 {
                    return Poll::Ready(Ok(Permit::new(inner.clone(), 0)));
                }
                *this.since = now;
                let longest = if waits { *this.longest } else { Duration::MAX };
                (*this.latest, *this.late) = deadline::end_of_wait(now, longest, deadline);
                // A panic goes on once dropping this future, or the permit, undoes the arrival.
                let (arrival, panics) = inner.arrive(now, permits, waits);
                match arrival {
                    Arrival::Admitted => {
                        let permit = Permit::new(inner.clone(), permits);
                        panics.resume();
                        return Poll::Ready(Ok(permit));
                    }
                    Arrival::Waits(ticket) => *this.ticket = Some(ticket),
                    Arrival::Rejected(reason) => {
                        panics.resume();
                        return rejected(reason);
                    }
                }
                panics.resume();
                continue;
            };
            let poll_at = match inner.turn(now, ticket, task.waker()) {
                Turn::Admitted => {
                    *this.ticket = None;
                    let permit = Permit::new(inner.clone(), permits);
                    if waits {
                        let waited = now.saturating_duration_since(*this.since);
                        inner
                            .base
                            .report(Event::waited(inner.base.name, waited), observer);
                    }
                    return Poll::Ready(Ok(permit));
                }
                Turn::Rejected => {
                    *this.ticket = None;
                    inner.leave(now, ticket, permits);
                    return rejected(Reason::BulkheadFull);
                }
                Turn::PollAt(_) if now >= *this.latest => {
                    *this.ticket = None;
                    inner.leave(now, ticket, permits);
                    return rejected(*this.late);
                }
                Turn::PollAt(poll_at) => poll_at.min(*this.latest),
            };
            let alarm = self.as_mut().project().alarm;
            ready!(alarm.poll_until(&inner.base.clock, poll_at, task));
            now = inner.base.now();
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<Permit, Rejected>;

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
            .field("bulkhead", &self.inner.base.name)
            .field("permits", &self.permits)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
