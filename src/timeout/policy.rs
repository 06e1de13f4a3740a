//! The timeout around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::{Limit, Timeout};
use crate::clock::{self, ClockHandle, Sleep};
use crate::deadline::Deadline;
use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::event::{Event, Listener, Observer};
use crate::instant::Instant;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

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
                // A copy, because the address of `cx` must not escape: see `Context::move_to`.
                let copy = cx;
                crate::instant::nanos(limit(&copy))
            }
        };
        let own = now.after(limit);
        let (outer, deadline) = cx.tighten_here(own);
        TimeoutFuture {
            // An operation that cannot start before the deadline is not started.
            attempt: (now < outer).then(|| op.attempt(cx)),
            timer: None,
            timeout: self,
            listener: op.listener(),
            allowed: Allowed::new(
                deadline.as_nanos().saturating_sub(now.as_nanos()),
                own == deadline,
            ),
            deadline,
        }
    }
}

impl Describe for Timeout {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Timeout {
            limit: self.limit(),
        });
    }
}

pin_project! {
    /// A run of a [`Timeout`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct TimeoutFuture<'a, Op: Operation> {
        // `None` if the deadline had passed before the start, or once the attempt was cut off.
        #[pin]
        attempt: Option<Op::Attempt>,
        // Armed when the operation is pending for the first time.
        #[pin]
        timer: Option<Sleep>,
        timeout: &'a Timeout,
        listener: Op::Listener,
        allowed: Allowed,
        // The earlier of the timeout's own deadline and the outer one.
        deadline: Instant,
    }
}

/// How long a run may take, and whether that is the timeout's own limit. One word, because stacks have two timeouts.
#[derive(Clone, Copy)]
struct Allowed(u64);

impl Allowed {
    const OWN_LIMIT: u64 = 1 << 63;

    /// Times of 290 years and more saturate, because no run takes that long.
    #[inline(always)]
    const fn new(nanos: u64, own_limit: bool) -> Self {
        let own_limit = if own_limit { Self::OWN_LIMIT } else { 0 };
        let longest = Self::OWN_LIMIT - 1;
        Self(own_limit | if nanos < longest { nanos } else { longest })
    }

    const fn is_own_limit(self) -> bool {
        self.0 & Self::OWN_LIMIT != 0
    }

    const fn time(self) -> Duration {
        Duration::from_nanos(self.0 & !Self::OWN_LIMIT)
    }
}

impl<Op: Operation> Future for TimeoutFuture<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(attempt) = this.attempt.as_mut().as_pin_mut() else {
            return Poll::Ready(this.timeout.reject(this.listener.observer()));
        };
        let polled = {
            let _entered = Deadline::new(&this.timeout.clock, *this.deadline).enter();
            attempt.poll(task)
        };
        if let Poll::Ready(outcome) = polled {
            match &outcome.result {
                Err(Error::TimedOut(timed_out))
                    if timed_out.is_by_deadline() && this.allowed.is_own_limit() => {}
                _ => return Poll::Ready(outcome.moved_by_field()),
            }
        } else {
            if this.timer.is_none() {
                clock::arm(&this.timeout.clock, *this.deadline, this.timer.as_mut());
            }
            if let Some(timer) = this.timer.as_pin_mut() {
                ready!(timer.poll(task));
            }
        }
        // Drops the operation first, so that nothing is reported or released while it still exists.
        this.attempt.set(None);
        let (limit, is_own) = (this.allowed.time(), this.allowed.is_own_limit());
        let observer = this.listener.observer();
        Poll::Ready(this.timeout.cut_off(limit, is_own, observer))
    }
}

impl<Op: Operation> fmt::Debug for TimeoutFuture<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutFuture")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Timeout {
    #[cold]
    fn reject<T, E>(&self, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let rejected = Rejected::new(self.name, Reason::DeadlineTooClose);
        if let Some(observer) = observer {
            observer.on_event(&Event::rejected(&rejected));
        }
        Outcome::rejected(rejected)
    }

    /// Returns the outcome of a call whose time is up. Reports it if the limit is this timeout's own; otherwise the
    /// policy that set the deadline does.
    #[cold]
    fn cut_off<T, E>(
        &self,
        limit: Duration,
        is_own: bool,
        observer: Option<&dyn Observer>,
    ) -> Outcome<T, E> {
        if !is_own {
            return Outcome::timed_out(TimedOut::by_deadline(limit));
        }
        let timed_out = TimedOut::new(self.name, limit);
        if let Some(observer) = observer {
            observer.on_event(&Event::timed_out(&timed_out));
        }
        Outcome::timed_out(timed_out)
    }
}
