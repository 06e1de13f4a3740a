//! Waiting for a permit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::inner::Inner;
use super::permit::Permit;
use super::permit_queue::Full;
use super::raw_permit::RawPermit;
use super::ticket::Ticket;
use crate::clock::{Sleep, arm};
use crate::coop;
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::policy::Context;

pin_project! {
    /// Acquires a permit for code outside a policy, after a wait if necessary.
    ///
    /// Not an async function: that would copy the context several times, which takes longer than the
    /// acquisition.
    pub(super) struct AcquirePermit<'a> {
        request: Request<'a>,
        cx: Context,
        tried: bool,
        #[pin]
        wait: Wait<'a>,
    }
}

pin_project! {
    /// The wait of a call for its permits. Joins the wait queue when it is polled first.
    ///
    /// Dropping it leaves the queue, and releases permits that were already handed over.
    pub(super) struct Wait<'a> {
        ticket: Option<Ticket<'a>>,
        since: Instant,
        // The rejection of a call that may not wait.
        rejected: Option<Reason>,
        // `None` if the wait has no end.
        #[pin]
        timer: Option<Sleep>,
        // Reason of the rejection when the timer fires.
        timeout: Reason,
    }
}

/// The bulkhead that a call waits for. The context is passed separately: the future of the call has it already.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) inner: &'a Inner,
    pub(super) partition: u32,
    /// Whether the operation may read the time from its context.
    pub(super) reads_time: bool,
}

impl<'a> Wait<'a> {
    #[inline]
    pub(super) const fn new(rejected: Option<Reason>) -> Self {
        Self {
            ticket: None,
            since: Instant::ORIGIN,
            rejected,
            timer: None,
            timeout: Reason::QueueTimeout,
        }
    }

    /// Waits for the permits and writes them to `raw`. Returning them would move them, which takes longer than
    /// acquiring them. When the call is admitted, the context of a call that reads the time has a new reading.
    #[inline]
    pub(super) fn poll(
        self: Pin<&mut Self>,
        request: Request<'a>,
        cx: &mut Context,
        raw: &mut RawPermit,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut wait = self.project();
        if let Some(reason) = *wait.rejected {
            return Poll::Ready(Err(reason));
        }
        let Request {
            inner,
            partition,
            reads_time,
        } = request;
        let observed = inner.base.has_observer(observer);
        let timed = reads_time || observed || inner.adaptive.is_some();
        let mut may_be_over = true;
        if wait.ticket.is_none() {
            let (now, until, reason) = inner.wait_limits(cx, timed);
            if until <= now {
                return Poll::Ready(Err(reason));
            }
            let entrant = inner.entrant(cx, partition);
            match Ticket::new(&inner.queue, entrant, now, task.waker()) {
                Some((ticket, may_be_next)) => {
                    *wait.ticket = Some(ticket);
                    may_be_over = may_be_next;
                }
                None => return Poll::Ready(Err(Reason::BulkheadFull)),
            }
            *wait.since = now;
            if until != Instant::FAR_FUTURE {
                *wait.timeout = reason;
                arm(&inner.base.clock, until, wait.timer.as_mut());
            }
        }
        if let Some(ticket) = wait.ticket.as_mut().filter(|_| may_be_over) {
            if let Poll::Ready(turn) = ticket.poll(task) {
                *raw = match turn {
                    Ok(taken) => RawPermit::new(taken, partition, Instant::ORIGIN),
                    Err(reason) => return Poll::Ready(Err(reason)),
                };
                if timed {
                    // The operation starts now: the wait is no part of the dependency's latency.
                    raw.started = cx.refresh(&inner.base.clock);
                }
                if observed {
                    inner.report_wait(raw.started, *wait.since, observer);
                }
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(timer) = wait.timer.as_pin_mut() {
            if timer.poll(task).is_ready() {
                *wait.ticket = None;
                return Poll::Ready(Err(*wait.timeout));
            }
        }
        Poll::Pending
    }
}

impl Inner {
    /// Returns the current time if it is needed, the end of a wait that starts now, and the reason of the rejection at
    /// that end.
    #[inline]
    fn wait_limits(&self, cx: &mut Context, timed: bool) -> (Instant, Instant, Reason) {
        let endless = self.max_wait == Duration::MAX
            && cx.remaining().is_none()
            && deadline::inherited(&self.base.clock, Instant::ORIGIN) == Instant::FAR_FUTURE;
        if endless && !timed && !self.queue.has_codel() {
            return (Instant::ORIGIN, Instant::FAR_FUTURE, Reason::QueueTimeout);
        }
        let now = cx.now(&self.base.clock);
        let deadline = cx.deadline(&self.base.clock);
        let (end, reason) = deadline::end_of_wait(now, self.max_wait, deadline);
        (now, end, reason)
    }

    #[cold]
    fn report_wait(&self, now: Instant, since: Instant, observer: Option<&dyn Observer>) {
        let waited = now.saturating_duration_since(since);
        self.base
            .report(Event::waited(self.base.name, waited), observer);
    }
}

impl<'a> AcquirePermit<'a> {
    #[inline]
    pub(super) const fn new(inner: &'a Inner, partition: u32, cx: Context) -> Self {
        Self {
            request: Request {
                inner,
                partition,
                reads_time: false,
            },
            cx,
            tried: false,
            wait: Wait::new(None),
        }
    }

    #[inline(always)]
    fn poll_permit(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Permit<'a>, Rejected>> {
        let this = self.project();
        let (request, inner) = (*this.request, this.request.inner);
        // Before the acquisition: a clock that panics afterwards must not leak the permit.
        let mut permit = Permit {
            inner,
            raw: RawPermit::NOTHING,
        };
        let entered = if std::mem::replace(this.tried, true) {
            Err(Full::Busy)
        } else {
            let entrant = inner.entrant(this.cx, request.partition);
            let raw = inner.try_enter(entrant, this.cx, None);
            raw.map(|raw| permit.raw = raw)
        };
        let entered = match entered {
            Err(Full::Busy) if inner.may_wait() => {
                let wait = this.wait;
                ready!(wait.poll(request, this.cx, &mut permit.raw, None, task))
            }
            entered => entered.map_err(Full::reason),
        };
        Poll::Ready(match entered {
            // Word by word: see `RawPermit::take`.
            Ok(()) => Ok(Permit {
                inner,
                raw: permit.raw.take().unwrap_or(RawPermit::NOTHING),
            }),
            Err(reason) => Err(inner.reject(reason, None)),
        })
    }
}

impl<'a> Future for AcquirePermit<'a> {
    type Output = Result<Permit<'a>, Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        coop::poll_within(task, |task| self.poll_permit(task))
    }
}
