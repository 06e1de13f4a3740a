//! Waiting for a permit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::held::Held;
use super::queue::{Entrant, Full, Ticket};
use super::{Bulkhead, Permit};
use crate::clock::{Sleep, arm};
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::instant::Instant;
use crate::policy::Context;

pin_project! {
    /// Takes a permit in turn, for a call that was not let in at once.
    ///
    /// Dropping it gives up the place in the line, and the permit if it was its turn already.
    pub(super) struct Acquire<'a> {
        bulkhead: &'a Bulkhead,
        cx: Context,
        timed: bool,
        #[pin]
        turn: Turn<'a>,
    }
}

pin_project! {
    /// Takes a permit, at once or in turn, for somebody who never sees the context.
    ///
    /// Written by hand: async functions would move the context from one to the next, which takes
    /// longer than all that is done with it.
    pub(super) struct AcquirePermit<'a> {
        bulkhead: &'a Bulkhead,
        cx: Context,
        tried: bool,
        #[pin]
        turn: Turn<'a>,
    }
}

pin_project! {
    /// A place in line, with an end.
    struct Turn<'a> {
        ticket: Option<Ticket<'a>>,
        // Armed when the wait cannot last for ever.
        #[pin]
        timer: Option<Sleep>,
        // What it means when the timer fires.
        timeout: Reason,
    }
}

impl<'a> Acquire<'a> {
    /// `timed`: the operation may look at the times in its context.
    pub(super) fn new(bulkhead: &'a Bulkhead, cx: Context, timed: bool) -> Self {
        Self {
            bulkhead,
            cx,
            timed: timed || bulkhead.inner.adaptive.is_some(),
            turn: Turn::new(),
        }
    }

    /// Waits for the permits, and puts them into `held`.
    pub(super) fn poll(
        self: Pin<&mut Self>,
        held: &mut Held,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Reason>> {
        let this = self.project();
        this.turn
            .poll(this.bulkhead, this.cx, *this.timed, held, task)
    }

    /// The context of the call, with the present on the bulkhead's clock if it has waited.
    pub(super) fn context(&self) -> Context {
        self.cx
    }
}

impl<'a> AcquirePermit<'a> {
    #[inline]
    pub(super) const fn new(bulkhead: &'a Bulkhead, cx: Context) -> Self {
        Self {
            bulkhead,
            cx,
            tried: false,
            turn: Turn::new(),
        }
    }
}

impl<'a> Turn<'a> {
    const fn new() -> Self {
        Self {
            ticket: None,
            timer: None,
            timeout: Reason::QueueTimeout,
        }
    }

    /// Waits for a permit, and puts it where it stays: the way there would take longer than to take
    /// it. `timed`: somebody may ask the context how long the call has been under way, or what time
    /// it is, so the wait must be in it.
    #[inline]
    fn poll(
        self: Pin<&mut Self>,
        bulkhead: &'a Bulkhead,
        cx: &mut Context,
        timed: bool,
        held: &mut Held,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut this = self.project();
        let inner = &*bulkhead.inner;
        let mut may_be_over = true;
        if this.ticket.is_none() {
            let (now, until, reason) = bulkhead.patience(cx, timed);
            if until <= now {
                return Poll::Ready(Err(reason));
            }
            match inner.gate.line_up(bulkhead.entrant(cx), now, task.waker()) {
                Some((ticket, may_be_next)) => {
                    *this.ticket = Some(ticket);
                    may_be_over = may_be_next;
                }
                None => return Poll::Ready(Err(Reason::BulkheadFull)),
            }
            if until != Instant::FAR_FUTURE {
                *this.timeout = reason;
                arm(&inner.clock, until, this.timer.as_mut());
            }
        }
        if let Some(ticket) = this.ticket.as_mut().filter(|_| may_be_over) {
            if let Poll::Ready(turn) = ticket.poll(task) {
                return Poll::Ready(turn.map(|taken| {
                    *held = Held::new(taken, bulkhead.lane as usize, Instant::ORIGIN);
                    if timed {
                        // Its own latency starts here: the wait was ours, not the dependency's.
                        held.started = cx.refresh(&inner.clock);
                    }
                }));
            }
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            if timer.poll(task).is_ready() {
                *this.ticket = None;
                return Poll::Ready(Err(*this.timeout));
            }
        }
        Poll::Pending
    }
}

impl Bulkhead {
    pub(super) const fn entrant(&self, cx: &Context) -> Entrant {
        Entrant {
            cost: cx.cost(),
            lane: self.lane as usize,
            priority: cx.priority(),
        }
    }

    /// What time it is, if that matters to anybody; when the wait of a call that begins to wait now
    /// ends, and why.
    #[inline]
    fn patience(&self, cx: &mut Context, timed: bool) -> (Instant, Instant, Reason) {
        let inner = &*self.inner;
        let endless = inner.max_wait == Duration::MAX
            && cx.remaining().is_none()
            && deadline::inherited(&inner.clock, Instant::ORIGIN) == Instant::FAR_FUTURE;
        if endless && !timed && !inner.gate.has_codel() {
            return (Instant::ORIGIN, Instant::FAR_FUTURE, Reason::QueueTimeout);
        }
        let now = cx.now(&inner.clock);
        let deadline = cx.deadline(&inner.clock);
        let longest = now + inner.max_wait;
        if deadline <= longest {
            (now, deadline, Reason::DeadlineTooClose)
        } else {
            (now, longest, Reason::QueueTimeout)
        }
    }
}

impl<'a> Future for AcquirePermit<'a> {
    type Output = Result<Permit<'a>, Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (bulkhead, inner) = (*this.bulkhead, &*this.bulkhead.inner);
        // From the start, for a clock may panic when the permit is there.
        let mut permit = Permit {
            bulkhead: inner,
            held: Held::NOTHING,
        };
        let entered = if std::mem::replace(this.tried, true) {
            Err(Full::Busy)
        } else {
            let held = inner.try_enter(bulkhead.entrant(this.cx), this.cx, None);
            held.map(|held| permit.held = held)
        };
        let entered = match entered {
            Err(Full::Busy) if inner.may_wait => {
                let (timed, held) = (inner.adaptive.is_some(), &mut permit.held);
                ready!(this.turn.poll(bulkhead, this.cx, timed, held, task))
            }
            entered => entered.map_err(Full::reason),
        };
        Poll::Ready(match entered {
            Ok(()) => Ok(permit),
            Err(reason) => Err(inner.reject(reason, None)),
        })
    }
}
