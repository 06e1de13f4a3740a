//! Retries around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::attempts::{Again, Memory, Next};
use super::hook::{Hook, Hooked};
use super::state::Retrying;
use super::{Inner, Notify, Retry};
use crate::clock::ClockHandle;
use crate::error::Error;
use crate::policy::{Context, Describe, LayerKind, Operation, OutcomeOf, Policy, Run};

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
            max_attempts: self.inner.settings.max_attempts,
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

impl Inner {
    #[inline(always)]
    fn run<Op: Operation, H: Hook<Op>>(
        &self,
        op: Op,
        mut cx: Context,
        hook: H,
    ) -> RetryFuture<'_, Op, H> {
        if self.settings.max_elapsed.is_some() {
            // The clock is read only for `max_elapsed`, which needs the start of the first attempt.
            cx.now(&self.clock);
        }
        let budget = self.settings.budget.as_ref();
        let call = budget.map(|budget| budget.begin_in(&mut cx));
        let cx = cx.with_attempt(1);
        let memory = Memory::First {
            op,
            hook,
            inner: self,
            cx: cx.save(&self.clock),
            call,
        };
        RetryFuture::Attempt {
            memory,
            // The last field, because an attempt followed by other fields is copied as a whole.
            attempt: op.attempt(cx),
        }
    }
}

pin_project! {
    /// A run of a [`Retry`].
    ///
    /// The sleep between attempts is on the heap, in the allocation that a failure needs anyway. Stored here, it
    /// would make the future of a call without retries up to twice as large.
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
        /// The call waits after a failed attempt.
        Sleep {
            // `None` once the sleep is over.
            again: Option<Pin<Box<Again<'a, Op, H>>>>,
        },
        /// The call has ended, or is being moved to the next state.
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
                        return Poll::Ready(outcome.moved_by_field());
                    }
                    if let Some(outcome) = self.as_mut().after_attempt(outcome) {
                        return Poll::Ready(outcome);
                    }
                }
                RetryProj::Sleep { again } => {
                    if let Some(again) = again {
                        ready!(again.as_mut().poll_sleep(task));
                    }
                    let Some(mut again) = again.take() else {
                        return Poll::Pending;
                    };
                    if let Some(outcome) = again.as_mut().take_end() {
                        return Poll::Ready(outcome);
                    }
                    self.as_mut().attempt_again(again);
                }
                RetryProj::Finished => return Poll::Pending,
            }
        }
    }
}

impl<'a, Op: Operation, H: Hook<Op>> RetryFuture<'a, Op, H> {
    /// Decides what follows an attempt. Returns the outcome of the call if no other attempt follows.
    ///
    /// Takes the outcome by value: a reference to it would force good outcomes out of the registers too.
    #[cold]
    #[inline(never)]
    fn after_attempt(mut self: Pin<&mut Self>, outcome: OutcomeOf<Op>) -> Option<OutcomeOf<Op>> {
        let RetryProj::Attempt { memory, .. } = self.as_mut().project() else {
            return Some(outcome);
        };
        let memory = memory.take();
        // Drops the attempt before budgets, observers, and hooks run, and before the wait.
        self.set(Self::Finished);
        match memory.after_attempt(outcome) {
            Next::Return(outcome) => Some(outcome),
            Next::Sleep(again) => {
                self.set(Self::Sleep { again: Some(again) });
                None
            }
        }
    }

    /// Starts the next attempt. Out of line, because otherwise each outer layer would contain the code of an attempt
    /// twice.
    #[cold]
    #[inline(never)]
    fn attempt_again(mut self: Pin<&mut Self>, mut again: Pin<Box<Again<'a, Op, H>>>) {
        let (op, cx) = again.as_mut().next_attempt();
        let attempt = op.attempt(cx);
        let memory = Memory::Later { again };
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
