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
    /// Acquires a permit, at once or in turn, for a caller that never sees the context.
    ///
    /// Written by hand: async functions would move the context from one to the next, which takes
    /// longer than all that is done with it.
    pub(super) struct AcquirePermit<'a> {
        request: Request<'a>,
        cx: Context,
        tried: bool,
        #[pin]
        wait: Wait<'a>,
    }
}

pin_project! {
    /// The wait of a call that was not admitted at once. Pending from the first poll until its turn.
    ///
    /// Dropping it gives up the place in the queue, and permits that were handed over already.
    pub(super) struct Wait<'a> {
        ticket: Option<Ticket<'a>>,
        since: Instant,
        // Armed when the wait is bounded.
        #[pin]
        timer: Option<Sleep>,
        // The reason when the timer fires.
        timeout: Reason,
    }
}

/// The bulkhead that a call waits for. The context of the call is passed beside it, because one copy in the
/// future of a call is enough.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) inner: &'a Inner,
    pub(super) partition: u32,
    /// Whether the operation may read the times in its context.
    pub(super) reads_time: bool,
}

impl<'a> Wait<'a> {
    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            ticket: None,
            since: Instant::ORIGIN,
            timer: None,
            timeout: Reason::QueueTimeout,
        }
    }

    /// Waits for the permits and writes them where they stay: moving them would take longer than
    /// acquiring them. Once admitted, the context of a call that reads the time has a fresh reading.
    #[inline]
    pub(super) fn poll(
        self: Pin<&mut Self>,
        request: Request<'a>,
        cx: &mut Context,
        held: &mut RawPermit,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut wait = self.project();
        let Request {
            inner,
            partition,
            reads_time,
        } = request;
        let observed = inner.base.is_heard(observer);
        let timed = reads_time || observed || inner.adaptive.is_some();
        let mut may_be_over = true;
        if wait.ticket.is_none() {
            let (now, until, reason) = inner.patience(cx, timed);
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
                *held = match turn {
                    Ok(taken) => RawPermit::new(taken, partition, Instant::ORIGIN),
                    Err(reason) => return Poll::Ready(Err(reason)),
                };
                if timed {
                    // The latency of the work starts here: the wait was ours, not the dependency's.
                    held.started = cx.refresh(&inner.base.clock);
                }
                if observed {
                    inner.report_wait(held.started, *wait.since, observer);
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
    /// Returns the current time, if it is needed, when the wait of a call that begins to wait now
    /// ends, and why.
    #[inline]
    fn patience(&self, cx: &mut Context, timed: bool) -> (Instant, Instant, Reason) {
        let endless = self.max_wait == Duration::MAX
            && cx.remaining().is_none()
            && deadline::inherited(&self.base.clock, Instant::ORIGIN) == Instant::FAR_FUTURE;
        if endless && !timed && !self.queue.has_codel() {
            return (Instant::ORIGIN, Instant::FAR_FUTURE, Reason::QueueTimeout);
        }
        let now = cx.now(&self.base.clock);
        let deadline = cx.deadline(&self.base.clock);
        let longest = now + self.max_wait;
        if deadline <= longest {
            (now, deadline, Reason::DeadlineTooClose)
        } else {
            (now, longest, Reason::QueueTimeout)
        }
    }

    #[cold]
    fn report_wait(&self, now: Instant, since: Instant, observer: Option<&dyn Observer>) {
        let waited = now.saturating_duration_since(since);
        self.base
            .tell(Event::waited(self.base.name, waited), observer);
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
            wait: Wait::new(),
        }
    }
}

impl<'a> Future for AcquirePermit<'a> {
    type Output = Result<Permit<'a>, Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        // A loop of acquisitions that are ready at once must let other tasks run.
        let budget = ready!(coop::poll_proceed(task));
        let this = self.project();
        let (request, inner) = (*this.request, this.request.inner);
        // From the start, since a clock may panic when the permit is there.
        let mut permit = Permit {
            inner,
            held: RawPermit::NOTHING,
        };
        let entered = if std::mem::replace(this.tried, true) {
            Err(Full::Busy)
        } else {
            let entrant = inner.entrant(this.cx, request.partition);
            let held = inner.try_enter(entrant, this.cx, None);
            held.map(|held| permit.held = held)
        };
        let entered = match entered {
            Err(Full::Busy) if inner.may_wait() => {
                let wait = this.wait;
                ready!(wait.poll(request, this.cx, &mut permit.held, None, task))
            }
            entered => entered.map_err(Full::reason),
        };
        budget.made_progress();
        Poll::Ready(match entered {
            // Word by word: see `RawPermit::take`.
            Ok(()) => Ok(Permit {
                inner,
                held: permit.held.take().unwrap_or(RawPermit::NOTHING),
            }),
            Err(reason) => Err(inner.reject(reason, None)),
        })
    }
}
