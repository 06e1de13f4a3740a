//! The timeout around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::{Limit, Timeout};
use crate::clock::{self, ClockHandle, Sleep};
use crate::deadline::Deadline;
use crate::error::{Reason, Rejected, TimedOut};
use crate::event::{Event, Listener, Observer};
use crate::instant::Instant;
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Outcome, Policy, Run};

impl Policy for Timeout {}

impl AtMostOnce for Timeout {}

impl<'a, Op: Operation> Run<Op> for &'a Timeout {
    type Future = TimeoutFuture<'a, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> TimeoutFuture<'a, Op> {
        let now = cx.now(&self.clock);
        let limit = match &self.limit {
            Limit::Fixed { nanos, .. } => *nanos,
            Limit::PerCall(limit) => {
                // A copy, for the address of `cx` must not get out: see `Context::move_to`.
                let copy = cx;
                crate::instant::nanos(limit(&copy))
            }
        };
        let (outer, deadline) = cx.tighten_here(now.after(limit));
        TimeoutFuture {
            // An operation that can't start before the deadline is not started.
            attempt: (now < outer).then(|| op.attempt(cx)),
            timer: None,
            timeout: self,
            listener: op.listener(),
            started: now,
            deadline,
        }
    }
}

impl Describe for Timeout {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Timeout {
            limit: self.limit(),
        });
    }
}

pin_project! {
    pub struct TimeoutFuture<'a, Op: Operation> {
        // `None`: the deadline had passed before the start.
        #[pin]
        attempt: Option<Op::Attempt>,
        // Armed when the operation is pending for the first time.
        #[pin]
        timer: Option<Sleep>,
        timeout: &'a Timeout,
        listener: Op::Listener,
        started: Instant,
        deadline: Instant,
    }
}

impl<Op: Operation> Future for TimeoutFuture<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(attempt) = this.attempt.as_pin_mut() else {
            return Poll::Ready(this.timeout.refuse(this.listener.observer()));
        };
        {
            let _entered = Deadline::new(&this.timeout.clock, *this.deadline).enter();
            if let Poll::Ready(outcome) = attempt.poll(task) {
                return Poll::Ready(outcome.handed_on());
            }
        }
        if this.timer.is_none() {
            clock::arm(&this.timeout.clock, *this.deadline, this.timer.as_mut());
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            ready!(timer.poll(task));
        }
        let limit = this.deadline.saturating_duration_since(*this.started);
        Poll::Ready(this.timeout.cut_off(limit, this.listener.observer()))
    }
}

impl Timeout {
    #[cold]
    fn refuse<T, E>(&self, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let rejected = Rejected::new(self.name, Reason::DeadlineTooClose);
        if let Some(observer) = observer {
            observer.on_event(&Event::rejected(&rejected));
        }
        Outcome::rejected(rejected)
    }

    #[cold]
    fn cut_off<T, E>(&self, limit: Duration, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let timed_out = TimedOut::new(self.name, limit);
        if let Some(observer) = observer {
            observer.on_event(&Event::timed_out(&timed_out));
        }
        Outcome::timed_out(timed_out)
    }
}
