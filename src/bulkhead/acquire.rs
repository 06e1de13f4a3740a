//! Waiting for a permit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::queue::{Entrant, Full, Ticket};
use super::{Bulkhead, Held};
use crate::clock::{Instant, Sleep};
use crate::error::Reason;
use crate::policy::Context;

pin_project! {
    /// Takes a permit, at once or in turn.
    ///
    /// Dropping it gives up the place in the line, and the permit if it was its turn already.
    pub(super) struct Acquire<'a> {
        bulkhead: &'a Bulkhead,
        cx: Context,
        ticket: Option<Ticket<'a>>,
        // Armed when it has to wait, and cannot wait for ever.
        #[pin]
        timer: Option<Sleep>,
        // What it means when the timer fires.
        timeout: Reason,
    }
}

impl<'a> Acquire<'a> {
    pub(super) const fn new(bulkhead: &'a Bulkhead, cx: Context) -> Self {
        Self {
            bulkhead,
            cx,
            ticket: None,
            timer: None,
            timeout: Reason::QueueTimeout,
        }
    }

    /// The context of the call, with the present on the bulkhead's clock if it has waited.
    pub(super) fn context(&self) -> Context {
        self.cx
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

    /// When the wait of a call that begins to wait at `now` ends, and why.
    fn patience(&self, cx: &mut Context, now: Instant) -> (Instant, Reason) {
        let deadline = cx.deadline(&self.inner.clock);
        let longest = now + self.inner.max_wait;
        if deadline <= longest {
            (deadline, Reason::DeadlineTooClose)
        } else {
            (longest, Reason::QueueTimeout)
        }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<Held, Reason>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<Held, Reason>> {
        let mut this = self.project();
        let inner = &*this.bulkhead.inner;
        if this.ticket.is_none() {
            match inner.try_enter(this.bulkhead.entrant(this.cx), this.cx, None) {
                Ok(held) => return Poll::Ready(Ok(held)),
                Err(Full::TooLarge) => return Poll::Ready(Err(Reason::CostExceedsLimit)),
                Err(Full::Busy) if !inner.may_wait => {
                    return Poll::Ready(Err(Reason::BulkheadFull));
                }
                Err(Full::Busy) => {}
            }
            let now = this.cx.now(&inner.clock);
            let (until, reason) = this.bulkhead.patience(this.cx, now);
            if until <= now {
                return Poll::Ready(Err(reason));
            }
            let entrant = this.bulkhead.entrant(this.cx);
            match inner.gate.line_up(entrant, now, task.waker().clone()) {
                Some(ticket) => *this.ticket = Some(ticket),
                None => return Poll::Ready(Err(Reason::BulkheadFull)),
            }
            *this.timeout = reason;
            if until != Instant::FAR_FUTURE {
                this.timer.set(Some(inner.clock.sleep_until(until)));
            }
        }
        if let Some(ticket) = this.ticket {
            if let Poll::Ready(turn) = ticket.poll(task) {
                // Its own latency starts here: the wait was ours, not the dependency's.
                let started = this.cx.refresh(&inner.clock);
                let lane = this.bulkhead.lane as usize;
                return Poll::Ready(turn.map(|taken| Held::new(taken, lane, started)));
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
