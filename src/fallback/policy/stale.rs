//! Stale values around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use crate::clock::ClockHandle;
use crate::event::{Ending, Event, Listener};
use crate::fallback::maybe_stale::MaybeStale;
use crate::fallback::stale::{Inner, Stale};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::verdict::Health;

impl<T> Policy for Stale<T> {}

impl<T> AtMostOnce for Stale<T> {}

impl<T> Describe for Stale<T> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Fallback);
    }
}

impl<'a, T: 'a, Op: Operation<Value = MaybeStale<T>>> Run<Op> for &'a Stale<T> {
    type Future = StaleFuture<'a, T, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        StaleFuture {
            attempt: Some(op.attempt(cx)),
            inner: &self.inner,
            op,
        }
    }
}

pin_project! {
    /// A run of a [`Stale`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct StaleFuture<'a, T, Op: Operation> {
        // `None` once the attempt has ended.
        #[pin]
        attempt: Option<Op::Attempt>,
        inner: &'a Inner<T>,
        op: Op,
    }
}

impl<T, Op: Operation<Value = MaybeStale<T>>> Future for StaleFuture<'_, T, Op> {
    type Output = Outcome<MaybeStale<T>, Op::Error>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(attempt) = this.attempt.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let outcome = ready!(attempt.poll(task));
        // Drops the attempt before anything is remembered or reported.
        this.attempt.set(None);
        Poll::Ready(this.inner.after(outcome, *this.op))
    }
}

impl<T> Inner<T> {
    /// Stores a good value, or replaces an error.
    fn after<Op: Operation<Value = MaybeStale<T>>>(
        &self,
        mut outcome: Outcome<MaybeStale<T>, Op::Error>,
        op: Op,
    ) -> Outcome<MaybeStale<T>, Op::Error> {
        let verdict = outcome.verdict;
        let error = match &outcome.result {
            Ok(value) => {
                let is_good = verdict.health() != Health::Unhealthy && !verdict.is_retryable();
                if is_good && !value.is_stale() {
                    let value = value.value().clone();
                    self.refresh(outcome.finished(&self.clock), value);
                }
                return outcome;
            }
            Err(error) => error,
        };
        if !self.when.applies(error, &verdict) {
            return outcome;
        }
        let Some(value) = self.replace(outcome.finished(&self.clock)) else {
            return outcome;
        };
        if let (Some(observer), Some(age)) = (op.listener().observer(), value.age()) {
            observer.on_event(&Event::ServedStale {
                policy: self.name,
                pipeline: None,
                ending: Ending::of(&outcome.result),
                age,
            });
        }
        if let Err(error) = outcome.result {
            op.discard(error);
        }
        Outcome::new(Ok(value), verdict.with_retry(false))
    }
}

impl<T, Op: Operation> fmt::Debug for StaleFuture<'_, T, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaleFuture").finish_non_exhaustive()
    }
}
