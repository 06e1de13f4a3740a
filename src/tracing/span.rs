//! Spans of calls and of attempts.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::thread;

use ::tracing::field::Empty;
use ::tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use ::tracing::{Level, Span};
use pin_project_lite::pin_project;

use crate::event::{Ending, Panics};
use crate::policy::operation::OwnAttempts;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

/// Opens a span `call` around each call, at INFO. Place it outermost in the stack.
///
/// | field | value |
/// |---|---|
/// | `policy` | the name given to [`new`](Self::new) |
/// | `attempts` | how many times the operation was started |
/// | `outcome` | `succeeded`, `failed`, `timed_out`, `rejected`, `cancelled`, or `panicked` |
/// | `reason` | why it was rejected, such as `circuit_open` |
/// | `otel.name` | as `policy` |
/// | `otel.status_code` | `OK` or `ERROR`; not set if the call was cancelled |
#[derive(Clone, Copy, Debug)]
pub struct CallSpan {
    name: &'static str,
}

impl CallSpan {
    /// Returns a layer with `name` as the field `policy`.
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }
}

/// Opens a span `attempt` around each attempt, at INFO. Place it innermost, next to the operation.
///
/// | field | value |
/// |---|---|
/// | `policy` | the name given to [`new`](Self::new) |
/// | `attempt` | the number of the attempt, from 1 |
/// | `hedge` | whether it is a further copy of an attempt that still runs |
/// | `outcome` | as in [`CallSpan`] |
/// | `reason` | why a layer inside rejected it |
/// | `http.request.resend_count` | `attempt` - 1, from the second attempt on |
/// | `otel.name` | `attempt` |
/// | `otel.status_code` | `OK` or `ERROR`; not set if the attempt was cancelled |
#[derive(Clone, Copy, Debug)]
pub struct AttemptSpan {
    name: &'static str,
}

impl AttemptSpan {
    /// Returns a layer with `name` as the field `policy`.
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }
}

macro_rules! layers {
    ($($layer:ident)+) => {$(
        impl Policy for $layer {}

        impl AtMostOnce for $layer {}

        impl Describe for $layer {
            fn describe(&self, layers: &mut Vec<LayerKind>) {
                layers.push(LayerKind::Inspect);
            }
        }
    )+};
}

layers! { CallSpan AttemptSpan }

impl<Op: Operation> Run<Op> for &CallSpan {
    type Future = Spanned<Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Spanned<Op> {
        if is_off() {
            return Spanned::closed(op, cx);
        }
        Spanned::open(self.span(), op, cx, true)
    }
}

impl CallSpan {
    #[cold]
    #[inline(never)]
    fn span(self) -> Span {
        // Declares all fields, because a span accepts no others later.
        ::tracing::info_span!(
            target: "backstop",
            "call",
            policy = self.name,
            attempts = Empty,
            outcome = Empty,
            reason = Empty,
            otel.name = self.name,
            otel.status_code = Empty,
        )
    }
}

impl<Op: Operation> Run<Op> for &AttemptSpan {
    type Future = Spanned<Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Spanned<Op> {
        if is_off() {
            return Spanned::closed(op, cx);
        }
        let span = self.span(cx.attempt(), cx.is_hedge());
        Spanned::open(span, op, cx, false)
    }
}

impl AttemptSpan {
    #[cold]
    #[inline(never)]
    fn span(self, attempt: u32, hedge: bool) -> Span {
        // Not recorded later: if the subscriber panicked in that and again when the span is dropped, the process would
        // abort.
        let resend_count = (attempt > 1).then(|| attempt - 1);
        ::tracing::info_span!(
            target: "backstop",
            "attempt",
            policy = self.name,
            attempt,
            hedge,
            outcome = Empty,
            reason = Empty,
            otel.name = "attempt",
            http.request.resend_count = resend_count,
            otel.status_code = Empty,
        )
    }
}

/// Returns whether no subscriber takes spans of this level. One load; creating disabled spans cost two layers 15 ns
/// instead of 8.
#[inline(always)]
fn is_off() -> bool {
    Level::INFO > STATIC_MAX_LEVEL || Level::INFO > LevelFilter::current()
}

pin_project! {
    /// A run of a [`CallSpan`] or an [`AttemptSpan`].
    ///
    /// The attempt is polled in one place, with a span or without: from two sources of outcomes a caller learns nothing
    /// about either, and copies more (docs/design.md has the figures).
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Spanned<Op: Operation> {
        #[pin]
        attempt: Op::Attempt,
        // Declared last, so that the end is recorded after the attempt's drop.
        open: Open<Op>,
    }

    impl<Op: Operation> PinnedDrop for Spanned<Op> {
        fn drop(this: Pin<&mut Self>) {
            this.project().open.enter_for_good();
        }
    }
}

impl<Op: Operation> Spanned<Op> {
    #[inline(always)]
    fn closed(op: Op, cx: Context) -> Self {
        Self {
            attempt: op.attempt(cx),
            open: Open(None),
        }
    }

    #[cold]
    #[inline(never)]
    fn open(span: Span, op: Op, cx: Context, counts: bool) -> Self {
        if span.is_disabled() {
            return Self::closed(op, cx);
        }
        let mut open = Open(Some(Box::new(End {
            attempts: counts.then(|| OwnAttempts::new(op.started())),
            op,
            ending: Ending::Cancelled,
            was_panicking: false,
            entered: false,
            panics: Panics::default(),
            span,
        })));
        let scope = open.enter();
        // An attempt may begin before it is polled.
        let attempt = op.attempt(cx);
        drop(scope);
        Self { attempt, open }
    }
}

impl<Op: Operation> Future for Spanned<Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let scope = this.open.enter();
        let outcome = ready!(this.attempt.poll(task));
        drop(scope);
        if let Some(end) = &mut this.open.0 {
            end.ending = Ending::of(&outcome.result);
        }
        Poll::Ready(outcome)
    }
}

/// The span of a run; `None` if no subscriber takes it. Its methods cost a run without a span a comparison each.
struct Open<Op: Operation>(Option<Box<End<Op>>>);

impl<Op: Operation> Open<Op> {
    #[inline(always)]
    fn enter(&mut self) -> Scope<'_, Op> {
        let mut end = self.0.as_deref_mut();
        if let Some(end) = &mut end {
            end.enter();
        }
        Scope(end)
    }

    /// Enters the span until its end is recorded.
    #[inline(always)]
    fn enter_for_good(&mut self) {
        if let Some(end) = &mut self.0 {
            end.enter_for_good();
        }
    }
}

/// Leaves a span when it is dropped.
struct Scope<'a, Op: Operation>(Option<&'a mut End<Op>>);

impl<Op: Operation> Drop for Scope<'_, Op> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(end) = &mut self.0 {
            end.leave();
        }
    }
}

/// Records how a span ended, and closes it, when it is dropped.
struct End<Op: Operation> {
    span: Span,
    op: Op,
    /// `None` if attempts are not recorded.
    attempts: Option<OwnAttempts>,
    /// The ending if the run is dropped now: `Panicked` while a part of it runs.
    ending: Ending,
    /// Whether the thread was panicking when the span was entered, as in a destructor that polls the run.
    was_panicking: bool,
    /// Whether the attempt is being dropped in the span.
    entered: bool,
    /// A panic of the subscriber before the attempt was dropped. It goes on once the attempt has returned its permits.
    panics: Panics,
}

impl<Op: Operation> End<Op> {
    /// Enters the span for a part of its run.
    #[cold]
    #[inline(never)]
    fn enter(&mut self) {
        self.ending = Ending::Panicked;
        self.was_panicking = thread::panicking();
        self.span
            .with_subscriber(|(id, subscriber)| subscriber.enter(id));
        if let Some(attempts) = &mut self.attempts {
            attempts.resume(self.op.started());
        }
    }

    /// Leaves the span. The subscriber is user code: if it panics while another panic unwinds, that one goes on, instead
    /// of a second one that aborts the process.
    #[cold]
    #[inline(never)]
    fn leave(&mut self) {
        if let Some(attempts) = &mut self.attempts {
            attempts.pause(self.op.started());
        }
        let mut panics = Panics::default();
        panics.run(|| {
            self.span
                .with_subscriber(|(id, subscriber)| subscriber.exit(id));
        });
        let is_unwinding = thread::panicking() && !self.was_panicking;
        if panics.is_empty() && !is_unwinding {
            self.ending = Ending::Cancelled;
        }
        panics.resume();
    }

    #[cold]
    #[inline(never)]
    fn enter_for_good(&mut self) {
        let span = &self.span;
        self.panics.run(|| {
            span.with_subscriber(|(id, subscriber)| subscriber.enter(id));
        });
        self.entered = self.panics.is_empty();
    }

    fn record(&self) {
        let span = &self.span;
        span.record("outcome", self.ending.as_str());
        if let Some(attempts) = &self.attempts {
            span.record("attempts", attempts.count());
        }
        let status = match self.ending {
            Ending::Cancelled => return,
            Ending::Succeeded => "OK",
            Ending::Rejected(reason) => {
                span.record("reason", reason.as_str());
                "ERROR"
            }
            _ => "ERROR",
        };
        span.record("otel.status_code", status);
    }
}

impl<Op: Operation> Drop for End<Op> {
    #[cold]
    #[inline(never)]
    fn drop(&mut self) {
        let mut panics = mem::take(&mut self.panics);
        if self.entered {
            panics.run(|| {
                self.span
                    .with_subscriber(|(id, subscriber)| subscriber.exit(id));
            });
        }
        panics.run(|| self.record());
        panics.run(|| drop(mem::replace(&mut self.span, Span::none())));
        panics.resume();
    }
}

impl<Op: Operation> fmt::Debug for Spanned<Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spanned").finish_non_exhaustive()
    }
}
