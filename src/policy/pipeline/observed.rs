//! Calls whose events and end are reported to the observer of a pipeline.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::clock::{ClockHandle, blocking};
use crate::error::Error;
use crate::event::{Ending, Event, Observer, Panics};
use crate::instant::Instant;
use crate::policy::operation::{OwnAttempts, forward_attempts};
use crate::policy::{Context, OnUnwind, Operation, Outcome, Run};

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

    /// Reports the end of a call of the pipeline.
    fn finished(&self, ending: Ending, attempts: u32, elapsed: Duration) {
        // Complete at once, because `on_event` would copy it to add the name, by wide loads over the stores before.
        self.observer.on_event(&Event::CallFinished {
            policy: self.name,
            pipeline: Some(self.name),
            ending,
            attempts,
            elapsed,
        });
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
    /// Starts a call whose start and end are read on `clock`.
    ///
    /// Never inlined: it would keep the compiler from inlining the rest of a call, with an observer or without.
    #[inline(never)]
    pub(super) fn observed(
        stack: R,
        op: Op,
        mut cx: Context,
        observer: &'a PipelineObserver,
        clock: &'a ClockHandle,
    ) -> Self {
        let start = CallStart {
            at: cx.now(clock),
            clock,
            op,
            observer,
        };
        let mut attempts = OwnAttempts::new(op.started());
        let mark = OnUnwind::new(|| {
            attempts.pause(op.started());
            start.report(Ending::Panicked, &attempts, None);
        });
        let run = stack.run(Observed { op, observer }, cx);
        mark.disarm();
        attempts.pause(op.started());
        Self::Observed {
            run,
            call: ObservedCall {
                start,
                attempts,
                ending: Ending::Cancelled,
                end: None,
            },
        }
    }
}

/// How a call began, for the report of its end.
struct CallStart<'a, Op: Operation> {
    clock: &'a ClockHandle,
    at: Instant,
    op: Op,
    observer: &'a PipelineObserver,
}

impl<Op: Operation> CallStart<'_, Op> {
    /// Reports the end, which is now if `end` is `None`.
    #[inline]
    fn report(&self, ending: Ending, attempts: &OwnAttempts, end: Option<Instant>) {
        let mut panics = Panics::default();
        panics.run(|| {
            let end = end.unwrap_or_else(|| self.clock.now());
            self.observer.finished(
                ending,
                attempts.count(),
                end.saturating_duration_since(self.at),
            );
        });
        panics.resume();
    }
}

/// A call whose end is reported when this is dropped.
pub struct ObservedCall<'a, Op: Operation> {
    start: CallStart<'a, Op>,
    attempts: OwnAttempts,
    /// The ending to report if this is dropped now.
    ending: Ending,
    /// When it ended; `None` means now.
    end: Option<Instant>,
}

impl<Op: Operation> Drop for ObservedCall<'_, Op> {
    fn drop(&mut self) {
        if self.ending != Ending::Cancelled {
            self.attempts.pause(self.start.op.started());
        }
        self.start.report(self.ending, &self.attempts, self.end);
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
                call.attempts.resume(call.start.op.started());
                let Poll::Ready(mut outcome) = run.poll(task) else {
                    call.ending = Ending::Cancelled;
                    call.attempts.pause(call.start.op.started());
                    return Poll::Pending;
                };
                call.ending = Ending::of(&outcome.result);
                call.end = Some(outcome.finished(call.start.clock));
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

    fn discard(self, error: Error<Op::Error>) {
        self.op.discard(error);
    }
}
