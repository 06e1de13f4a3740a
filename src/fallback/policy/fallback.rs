//! The fallback around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use crate::error::Error;
use crate::event::{Ending, Event, Listener};
use crate::fallback::Fallback;
use crate::fallback::source::{Replacement, Source};
use crate::policy::{
    AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, OutcomeOf, Policy, Run,
};
use crate::sync::Ordering;
use crate::verdict::{Health, Verdict};

impl<S> Policy for Fallback<S> {}

impl<S> AtMostOnce for Fallback<S> {}

impl<S> Describe for Fallback<S> {
    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Fallback);
    }
}

impl<'a, S: Source<Op>, Op: Operation> Run<Op> for &'a Fallback<S> {
    type Future = FallbackFuture<'a, S, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        FallbackFuture::First {
            attempt: op.attempt(cx),
            fallback: self,
            op,
        }
    }
}

pin_project! {
    /// A run of a [`Fallback`].
    #[project = FallbackProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum FallbackFuture<'a, S, Op>
    where
        S: Source<Op>,
        Op: Operation,
    {
        /// The operation runs.
        First {
            #[pin]
            attempt: Op::Attempt,
            fallback: &'a Fallback<S>,
            op: Op,
        },
        /// The other operation runs.
        Other {
            #[pin]
            operation: S::Future,
            // The health of the failed operation.
            health: Health,
        },
        /// The call has ended.
        Finished,
    }
}

impl<S: Source<Op>, Op: Operation> Future for FallbackFuture<'_, S, Op> {
    type Output = OutcomeOf<Op>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                FallbackProj::First { attempt, .. } => {
                    let outcome = ready!(attempt.poll(task));
                    if outcome.result.is_ok() {
                        return Poll::Ready(outcome.moved_by_field());
                    }
                    if let Some(outcome) = self.as_mut().replace(outcome) {
                        return Poll::Ready(outcome);
                    }
                }
                FallbackProj::Other { operation, health } => {
                    let result = ready!(operation.poll(task));
                    let health = *health;
                    self.set(Self::Finished);
                    return Poll::Ready(match result {
                        // Keeps the verdict, so that layers outside still see that the dependency failed.
                        Ok(value) => {
                            Outcome::new(Ok(value), Verdict::success().with_health(health))
                        }
                        error => Outcome::of(error),
                    });
                }
                FallbackProj::Finished => return Poll::Pending,
            }
        }
    }
}

impl<'a, S: Source<Op>, Op: Operation> FallbackFuture<'a, S, Op> {
    /// Replaces the error of an outcome, or returns it.
    #[cold]
    #[inline(never)]
    fn replace(mut self: Pin<&mut Self>, outcome: OutcomeOf<Op>) -> Option<OutcomeOf<Op>> {
        let FallbackProj::First { fallback, op, .. } = self.as_mut().project() else {
            return Some(outcome);
        };
        let (fallback, op) = (*fallback, *op);
        // Drops the attempt before the replacement starts.
        self.set(Self::Finished);
        let verdict = outcome.verdict;
        let error = match outcome.result {
            Err(error) if fallback.when.applies(&error, &verdict) => error,
            _ => return Some(outcome),
        };
        let outcome = match fallback.source.replace(&error) {
            Replacement::Nothing => return Some(Outcome::new(Err(error), verdict)),
            Replacement::Value(value) => Some(Outcome::new(Ok(value), verdict.with_retry(false))),
            Replacement::Operation(operation) => {
                let health = verdict.health();
                self.set(Self::Other { operation, health });
                None
            }
        };
        fallback.report(error, op);
        outcome
    }
}

impl<S> Fallback<S> {
    fn report<Op: Operation>(&self, error: Error<Op::Error>, op: Op) {
        // Relaxed: a counter, read for display.
        self.used.fetch_add(1, Ordering::Relaxed);
        let result = Err::<(), _>(error);
        if let Some(observer) = op.listener().observer() {
            observer.on_event(&Event::FallbackUsed {
                policy: self.name,
                pipeline: None,
                ending: Ending::of(&result),
            });
        }
        if let Err(error) = result {
            op.discard(error);
        }
    }
}

impl<S: Source<Op>, Op: Operation> fmt::Debug for FallbackFuture<'_, S, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First { .. } => "First",
            Self::Other { .. } => "Other",
            Self::Finished => "Finished",
        })
    }
}
