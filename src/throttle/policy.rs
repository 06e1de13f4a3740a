//! The throttle around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::{Permit, Throttle};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Outcome, Policy, Run};

impl Policy for Throttle {}

impl AtMostOnce for Throttle {}

impl<'a, Op: Operation> Run<Op> for &'a Throttle {
    type Future = Throttled<'a, Op>;

    #[inline]
    fn run(self, op: Op, mut cx: Context) -> Throttled<'a, Op> {
        let now = cx.now(&self.inner.settings.clock);
        match self.admit(now, true, op.listener().observer()) {
            Ok(mut permit) => {
                // Making the future is the operation's code as well.
                permit.is_running = true;
                let attempt = op.attempt(cx);
                permit.is_running = false;
                Throttled::Running {
                    attempt,
                    permit: Some(permit),
                }
            }
            Err(rejected) => Throttled::Refused { rejected },
        }
    }
}

impl Describe for Throttle {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.settings.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Throttle);
    }
}

pin_project! {
    #[project = ThrottledProj]
    pub enum Throttled<'a, Op: Operation> {
        Refused { rejected: Rejected },
        // The future is dropped before its permit.
        Running { #[pin] attempt: Op::Attempt, permit: Option<Permit<'a>> },
    }
}

impl<Op: Operation> Future for Throttled<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let (attempt, permit) = match self.project() {
            ThrottledProj::Refused { rejected } => {
                return Poll::Ready(Outcome::rejected(*rejected));
            }
            ThrottledProj::Running { attempt, permit } => (attempt, permit),
        };
        if let Some(permit) = permit {
            permit.is_running = true;
        }
        let polled = attempt.poll(task);
        if let Some(permit) = permit {
            permit.is_running = false;
        }
        let outcome = ready!(polled);
        if let Some(permit) = permit.take() {
            permit.record(outcome.verdict);
        }
        Poll::Ready(outcome)
    }
}
