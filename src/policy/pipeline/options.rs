//! Options of single calls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::{Pipeline, clock_of};
use crate::clock::ClockHandle;
use crate::error::{Error, TimedOut};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::priority::Priority;

/// Options of a single call. Passed to [`Pipeline::with`].
///
/// | option | default |
/// |---|---|
/// | [`deadline`](Self::deadline) | none |
/// | [`idempotent`](Self::idempotent) | `true` |
/// | [`repeatable`](Self::repeatable) | `true` |
/// | [`priority`](Self::priority) | [`Priority::NORMAL`] |
/// | [`cost`](Self::cost) | 1 |
///
/// Inside a call that already has options, those not set here stay unchanged. The earlier deadline wins, and a call
/// that is not idempotent or not repeatable stays so.
#[derive(Clone, Copy)]
pub struct CallOptions {
    deadline: Option<Duration>,
    idempotent: bool,
    repeatable: bool,
    priority: Option<Priority>,
    cost: Option<u32>,
}

crate::debug::debug_settings!(CallOptions { idempotent, repeatable, priority, cost; deadline });

impl CallOptions {
    /// Returns the default options.
    pub const fn new() -> Self {
        Self {
            deadline: None,
            idempotent: true,
            repeatable: true,
            priority: None,
            cost: None,
        }
    }

    /// Sets how long the call may take, from its start. It shortens timeouts, and no layer waits beyond it. Only a
    /// [`Timeout`](crate::Timeout) in the stack cuts an operation off.
    #[must_use]
    pub const fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Sets whether the operation may be repeated although it may have been executed.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Sets whether the operation can be run again at all. `false` for one that consumes what it sends. Then no
    /// policy starts it a second time.
    #[must_use]
    pub const fn repeatable(mut self, repeatable: bool) -> Self {
        self.repeatable = repeatable;
        self
    }

    /// Sets the priority of the call for load shedders and priority queues.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets the cost of the call in units of a rate limit or a weighted bulkhead.
    #[must_use]
    pub const fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }
}

impl Default for CallOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl CallOptions {
    /// Returns the context of a call with these options, and the time limit of the call if these options shorten it.
    /// `clock` is called only for a deadline.
    pub(crate) fn apply(
        &self,
        cx: Context,
        clock: impl FnOnce() -> Option<ClockHandle>,
    ) -> (Context, Option<Duration>) {
        let mut own = None;
        let mut cx = cx
            .with_idempotent(self.idempotent && cx.is_idempotent())
            .with_repeatable(self.repeatable && cx.is_repeatable())
            .with_priority(self.priority.unwrap_or(cx.priority()))
            .with_cost(self.cost.unwrap_or(cx.cost()));
        if let Some(within) = self.deadline {
            let clock = clock_of(clock());
            let deadline = cx.now(&clock) + within;
            own = (deadline <= cx.deadline(&clock)).then_some(within);
            cx.tighten(&clock, deadline);
        }
        (cx, own)
    }
}

/// A pipeline with options for its calls. Returned by [`Pipeline::with`].
///
/// The pipeline itself has no options, so one that is dropped without a call has no effect:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// use backstop::{CallOptions, Pipeline};
///
/// let pipeline = Pipeline::new(());
/// pipeline.with(CallOptions::new().idempotent(false));
/// ```
#[derive(Debug)]
#[must_use = "the options apply to calls through this value, and to no others"]
pub struct With<'a, P> {
    pub(super) pipeline: &'a Pipeline<P>,
    pub(super) options: CallOptions,
}

impl<P> Pipeline<P> {
    /// Returns this pipeline as a policy whose calls have these options.
    pub const fn with(&self, options: CallOptions) -> With<'_, P> {
        With {
            pipeline: self,
            options,
        }
    }
}

impl<P> Policy for With<'_, P> {}

impl<P: AtMostOnce> AtMostOnce for With<'_, P> {}

impl<'p, P, Op> Run<Op> for &With<'p, P>
where
    P: Describe,
    Op: Operation,
    &'p Pipeline<P>: Run<Op>,
{
    type Future = WithFuture<<&'p Pipeline<P> as Run<Op>>::Future>;

    fn run(self, op: Op, cx: Context) -> Self::Future {
        let (cx, deadline) = self.options.apply(cx, || self.clock());
        WithFuture::new(self.pipeline.run(op, cx), self.pipeline.name, deadline)
    }
}

impl<P: Describe> Describe for With<'_, P> {
    fn clock(&self) -> Option<ClockHandle> {
        self.pipeline.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.pipeline.describe(layers);
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        self.pipeline.clocks(clocks);
    }
}

pin_project! {
    /// A run with options.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct WithFuture<Fut> {
        #[pin]
        run: Fut,
        name: &'static str,
        // The time limit from the options, if no earlier deadline is in force.
        deadline: Option<Duration>,
    }
}

impl<Fut> WithFuture<Fut> {
    pub(super) const fn new(run: Fut, name: &'static str, deadline: Option<Duration>) -> Self {
        Self {
            run,
            name,
            deadline,
        }
    }
}

impl<T, E, Fut: Future<Output = Outcome<T, E>>> Future for WithFuture<Fut> {
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let this = self.project();
        let outcome = ready!(this.run.poll(task));
        Poll::Ready(match (&outcome.result, *this.deadline) {
            (Err(Error::TimedOut(timed_out)), Some(limit)) if timed_out.is_by_deadline() => {
                Outcome::timed_out(TimedOut::new(this.name, limit))
            }
            _ => outcome,
        })
    }
}
