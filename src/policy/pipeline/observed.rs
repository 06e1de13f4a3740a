//! Calls whose events and end are reported to the observer of a pipeline.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use crate::clock::{ClockHandle, blocking};
use crate::error::Error;
use crate::event::{Ending, Event, Observer, Panics};
use crate::instant::Instant;
use crate::policy::operation::forward_attempts;
use crate::policy::{Context, Operation, Outcome, Run};

/// The observer of a pipeline. Adds the pipeline's name to events.
#[derive(Clone)]
pub(super) struct PipelineObserver {
    name: &'static str,
    observer: Arc<dyn Observer>,
}

impl PipelineObserver {
    pub(super) fn new(name: &'static str, observer: impl Observer + 'static) -> Self {
        Self {
            name,
            observer: blocking::shielded(observer),
        }
    }

    /// Returns an observer whose user code is already shielded.
    pub(super) const fn of_shielded(name: &'static str, observer: Arc<dyn Observer>) -> Self {
        Self { name, observer }
    }

    pub(super) fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }
}

impl Observer for PipelineObserver {
    fn on_event(&self, event: &Event) {
        self.observer.on_event(&event.through(Some(self.name)));
    }

    fn includes(&self, address: *const ()) -> bool {
        self.observer.includes(address)
    }

    fn pipeline(&self) -> Option<&'static str> {
        Some(self.name)
    }
}

impl fmt::Debug for PipelineObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineObserver")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A run of a [`Pipeline`](super::Pipeline).
    #[project = PipelineProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum PipelineFuture<'a, R, Op>
    where
        Op: Operation,
        R: Run<Op>,
        R: Run<Observed<'a, Op>>,
    {
        Plain {
            #[pin]
            run: <R as Run<Op>>::Future,
        },
        Observed {
            // Declared first, so that it is dropped before the call, which reports the end.
            #[pin]
            run: <R as Run<Observed<'a, Op>>>::Future,
            call: ObservedCall<'a, Op>,
        },
        Finished,
    }
}

impl<'a, R, Op> PipelineFuture<'a, R, Op>
where
    Op: Operation,
    R: Run<Op> + Run<Observed<'a, Op>>,
{
    /// Starts a call at `start`, a reading of `clock`.
    pub(super) fn observed(
        stack: R,
        op: Op,
        cx: Context,
        observer: &'a PipelineObserver,
        clock: ClockHandle,
        start: Instant,
    ) -> Self {
        let mut call = ObservedCall {
            clock,
            start,
            before: op.started(),
            op,
            observer,
            ending: Ending::Panicked,
            end: None,
        };
        let run = stack.run(Observed { op, observer }, cx);
        call.ending = Ending::Cancelled;
        Self::Observed { run, call }
    }
}

/// A call whose end is reported when this is dropped.
pub struct ObservedCall<'a, Op: Operation> {
    clock: ClockHandle,
    start: Instant,
    /// Number of attempts that outer layers made before this call.
    before: u32,
    op: Op,
    observer: &'a PipelineObserver,
    /// The ending to report if this is dropped now.
    ending: Ending,
    /// When it ended; `None` means now.
    end: Option<Instant>,
}

impl<Op: Operation> Drop for ObservedCall<'_, Op> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.run(|| {
            let end = self.end.unwrap_or_else(|| self.clock.now());
            self.observer.on_event(&Event::CallFinished {
                policy: self.observer.name,
                pipeline: None,
                ending: self.ending,
                attempts: self.op.started().wrapping_sub(self.before),
                elapsed: end.saturating_duration_since(self.start),
            });
        });
        panics.resume();
    }
}

impl<'a, R, Op> Future for PipelineFuture<'a, R, Op>
where
    Op: Operation,
    R: Run<Op> + Run<Observed<'a, Op>>,
{
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.as_mut().project() {
            PipelineProj::Plain { run } => run.poll(task),
            PipelineProj::Observed { run, call } => {
                call.ending = Ending::Panicked;
                let polled = run.poll(task);
                call.ending = Ending::Cancelled;
                let mut outcome = ready!(polled);
                call.ending = Ending::of(&outcome.result);
                call.end = Some(outcome.finished(&call.clock));
                self.set(Self::Finished);
                Poll::Ready(outcome)
            }
            PipelineProj::Finished => Poll::Pending,
        }
    }
}

impl<'a, R, Op> fmt::Debug for PipelineFuture<'a, R, Op>
where
    Op: Operation,
    R: Run<Op> + Run<Observed<'a, Op>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineFuture").finish_non_exhaustive()
    }
}

impl<Op: Operation> fmt::Debug for ObservedCall<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedCall").finish_non_exhaustive()
    }
}

/// An operation with the observer of a pipeline.
#[derive(Clone, Copy)]
pub struct Observed<'o, Op> {
    op: Op,
    observer: &'o dyn Observer,
}

impl<Op> fmt::Debug for Observed<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl<'o, Op: Operation> Operation for Observed<'o, Op> {
    type Value = Op::Value;
    type Error = Op::Error;
    type Attempt = Op::Attempt;
    type Listener = &'o dyn Observer;

    const READS_TIME: bool = Op::READS_TIME;

    #[inline(always)]
    fn attempt(self, cx: Context) -> Op::Attempt {
        self.op.attempt(cx)
    }

    #[inline(always)]
    fn listener(self) -> &'o dyn Observer {
        self.observer
    }

    forward_attempts!();

    #[inline(always)]
    fn is_repeatable(self) -> bool {
        self.op.is_repeatable()
    }

    fn discard(self, error: Error<Op::Error>) {
        self.op.discard(error);
    }
}
