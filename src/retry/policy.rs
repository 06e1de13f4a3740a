//! Retries around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::attempts::{Loop, Memory, Next, OutcomeOf};
use super::state::Retrying;
use super::{Inner, Notify, Retry};
use crate::clock::{ClockHandle, Sleep, blocking};
use crate::error::Error;
use crate::policy::{Context, Describe, LayerKind, Operation, Policy, Run};

impl Policy for Retry {}

impl<'a, Op: Operation> Run<Op> for &'a Retry {
    type Future = RetryFuture<'a, Op, ()>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.inner.run(op, cx, ())
    }
}

impl Describe for Retry {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Retry {
            max_attempts: self.inner.max_attempts,
        });
    }
}

impl<F> Policy for Notify<F> {}

impl<'a, F, Op> Run<Op> for &'a Notify<F>
where
    F: Fn(&Error<Op::Error>, &Retrying),
    Op: Operation,
{
    type Future = RetryFuture<'a, Op, Hooked<'a, F>>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.retry.inner.run(op, cx, Hooked { hook: &self.hook })
    }
}

impl<F> Describe for Notify<F> {
    fn clock(&self) -> Option<ClockHandle> {
        self.retry.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.retry.describe(layers);
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        self.retry.clocks(clocks);
    }
}

/// What is called with the error of an attempt that will be followed by another one.
pub trait Hook<Op: Operation>: Copy {
    /// Calls it.
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying);
}

/// No hook.
impl<Op: Operation> Hook<Op> for () {
    fn call(self, _: &Error<Op::Error>, _: &Retrying) {}
}

/// A closure as a hook.
#[derive(Debug)]
pub struct Hooked<'a, F> {
    hook: &'a F,
}

// Derived, these would ask for `F: Copy`.
impl<F> Clone for Hooked<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Hooked<'_, F> {}

impl<F, Op> Hook<Op> for Hooked<'_, F>
where
    F: Fn(&Error<Op::Error>, &Retrying),
    Op: Operation,
{
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying) {
        blocking::outside(|| (self.hook)(error, retrying));
    }
}

impl Inner {
    #[inline(always)]
    fn run<Op: Operation, H: Hook<Op>>(
        &self,
        op: Op,
        mut cx: Context,
        hook: H,
    ) -> RetryFuture<'_, Op, H> {
        if self.max_elapsed.is_some() {
            // Otherwise the first attempt needs no reading of its own.
            cx.now(&self.clock);
        }
        let call = self.budget.as_ref().map(|budget| {
            // On a copy, because the address of `cx` must not get out: see `Context::move_to`.
            let mut copy = cx;
            let call = budget.begin_in(&mut copy);
            cx = copy;
            call
        });
        let cx = cx.with_attempt(1);
        RetryFuture::Attempt {
            attempt: op.attempt(cx),
            memory: Memory::First {
                op,
                hook,
                inner: self,
                cx,
                call,
            },
        }
    }
}

pin_project! {
    /// A run of a [`Retry`].
    ///
    /// The attempt and the sleep after it share their place, which the sleep makes 120 bytes large;
    /// so what the first attempt has to remember fits in beside it at no cost.
    #[project = RetryProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum RetryFuture<'a, Op, H>
    where
        Op: Operation,
        H: Hook<Op>,
    {
        /// An attempt runs.
        Attempt {
            #[pin]
            attempt: Op::Attempt,
            memory: Memory<'a, Op, H>,
        },
        /// The wait after an attempt that failed.
        Sleep {
            #[pin]
            sleep: Sleep,
            // Taken when the sleep is over.
            retrying: Option<Box<Loop<'a, Op, H>>>,
        },
        /// Over, or on its way to the next state.
        Finished,
    }
}

impl<Op: Operation, H: Hook<Op>> Future for RetryFuture<'_, Op, H> {
    type Output = OutcomeOf<Op>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                RetryProj::Attempt { attempt, memory } => {
                    let outcome = ready!(attempt.poll(task));
                    if outcome.result.is_ok()
                        && !outcome.verdict.is_retryable()
                        && memory.is_fresh()
                    {
                        return Poll::Ready(outcome.handed_on());
                    }
                    if let Some(outcome) = self.as_mut().after_attempt(outcome) {
                        return Poll::Ready(outcome);
                    }
                }
                RetryProj::Sleep { sleep, retrying } => {
                    ready!(sleep.poll(task));
                    let Some(mut retrying) = retrying.take() else {
                        return Poll::Pending;
                    };
                    if let Some(outcome) = retrying.end.take() {
                        return Poll::Ready(outcome);
                    }
                    self.as_mut().attempt_again(retrying);
                }
                RetryProj::Finished => return Poll::Pending,
            }
        }
    }
}

impl<Op: Operation, H: Hook<Op>> RetryFuture<'_, Op, H> {
    /// Decides what follows an attempt that was not simply good. Returns the outcome of the call if no
    /// other attempt follows.
    ///
    /// The outcome goes through by value: taking its address would force every outcome, the good
    /// ones too, out of the registers.
    #[cold]
    #[inline(never)]
    fn after_attempt(mut self: Pin<&mut Self>, outcome: OutcomeOf<Op>) -> Option<OutcomeOf<Op>> {
        let RetryProj::Attempt { memory, .. } = self.as_mut().project() else {
            return Some(outcome);
        };
        let memory = memory.take();
        // Drops the attempt: budgets, observers, hooks and the wait do not meet it any more.
        self.set(Self::Finished);
        match memory.after_attempt(outcome) {
            Next::Return(outcome) => Some(outcome),
            Next::Sleep(sleep, retrying) => {
                let retrying = Some(retrying);
                self.set(Self::Sleep { sleep, retrying });
                None
            }
        }
    }
}

impl<'a, Op: Operation, H: Hook<Op>> RetryFuture<'a, Op, H> {
    /// Starts the next attempt. Out of line: the code of an attempt would be part of each layer outside
    /// twice, for the first attempt and for this one.
    #[cold]
    #[inline(never)]
    fn attempt_again(mut self: Pin<&mut Self>, mut retrying: Box<Loop<'a, Op, H>>) {
        let (op, cx) = (retrying.op, retrying.next_attempt());
        let attempt = op.attempt(cx);
        let memory = Memory::Later { retrying };
        self.set(Self::Attempt { attempt, memory });
    }
}

impl<Op: Operation, H: Hook<Op>> fmt::Debug for RetryFuture<'_, Op, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempt { .. } => "Attempt",
            Self::Sleep { .. } => "Sleep",
            Self::Finished => "Finished",
        })
    }
}
