//! Spans of calls and of attempts.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use ::tracing::field::Empty;
use ::tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use ::tracing::span::Entered;
use ::tracing::{Level, Span};
use pin_project_lite::pin_project;

use crate::event::{Ending, Panics};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

/// Opens a span `call` around each call, at INFO. Place it outermost in the stack.
///
/// | field | value |
/// |---|---|
/// | `policy` | the name given to [`new`](Self::new) |
/// | `attempts` | how many times the operation was started |
/// | `outcome` | `succeeded`, `failed`, `timed_out`, `rejected`, or `cancelled` |
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
            return Spanned::Plain {
                attempt: op.attempt(cx),
            };
        }
        Spanned::open(self.span(), op, cx, true)
    }
}

impl CallSpan {
    #[inline(never)]
    fn span(self) -> OwnSpan {
        // Declares all fields, because a span accepts no others later.
        OwnSpan(::tracing::info_span!(
            target: "backstop",
            "call",
            policy = self.name,
            attempts = Empty,
            outcome = Empty,
            reason = Empty,
            otel.name = self.name,
            otel.status_code = Empty,
        ))
    }
}

impl<Op: Operation> Run<Op> for &AttemptSpan {
    type Future = Spanned<Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Spanned<Op> {
        if is_off() {
            return Spanned::Plain {
                attempt: op.attempt(cx),
            };
        }
        let span = self.span(cx.attempt(), cx.is_hedge());
        Spanned::open(span, op, cx, false)
    }
}

impl AttemptSpan {
    #[inline(never)]
    fn span(self, attempt: u32, hedge: bool) -> OwnSpan {
        let span = OwnSpan(::tracing::info_span!(
            target: "backstop",
            "attempt",
            policy = self.name,
            attempt,
            hedge,
            outcome = Empty,
            reason = Empty,
            http.request.resend_count = Empty,
            otel.name = "attempt",
            otel.status_code = Empty,
        ));
        if attempt > 1 && !span.0.is_disabled() {
            span.0.record("http.request.resend_count", attempt - 1);
        }
        span
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
    #[project = SpannedProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum Spanned<Op: Operation> {
        /// No subscriber takes the span.
        Plain {
            #[pin]
            attempt: Op::Attempt,
        },
        /// The attempt runs in a span.
        Open {
            // Declared first, so that it is dropped inside the span, before the end is recorded.
            #[pin]
            attempt: InSpan<Op::Attempt>,
            end: End<Op>,
        },
    }
}

/// A span that is closed by its drop. The subscriber is user code: if it panics while another panic unwinds, that one
/// goes on, instead of a second one that aborts the process.
#[derive(Clone)]
struct OwnSpan(Span);

impl OwnSpan {
    fn enter(&self) -> Scope<'_> {
        Scope(Some(self.0.enter()))
    }
}

impl Drop for OwnSpan {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.run(|| drop(mem::replace(&mut self.0, Span::none())));
        panics.resume();
    }
}

/// Leaves a span when it is dropped.
struct Scope<'a>(Option<Entered<'a>>);

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.run(|| drop(self.0.take()));
        panics.resume();
    }
}

pin_project! {
    /// An attempt that is polled and dropped in a span.
    pub struct InSpan<F> {
        // `None` once it has been dropped.
        #[pin]
        attempt: Option<F>,
        span: OwnSpan,
    }

    impl<F> PinnedDrop for InSpan<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let mut panics = Panics::default();
            panics.run(|| {
                let _scope = this.span.enter();
                this.attempt.as_mut().set(None);
            });
            // If the subscriber panicked, the attempt still returns its permits.
            panics.run(|| this.attempt.set(None));
            panics.resume();
        }
    }
}

impl<F: Future> Future for InSpan<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _scope = this.span.enter();
        match this.attempt.as_pin_mut() {
            Some(attempt) => attempt.poll(task),
            None => Poll::Pending,
        }
    }
}

impl<F> fmt::Debug for InSpan<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InSpan").finish_non_exhaustive()
    }
}

/// Records how a span ended when it is dropped.
struct End<Op: Operation> {
    span: OwnSpan,
    op: Op,
    /// Number of attempts started before the span; `None` if attempts are not recorded.
    before: Option<u32>,
    ending: Ending,
}

impl<Op: Operation> End<Op> {
    fn record(&self) {
        let span = &self.span.0;
        span.record("outcome", self.ending.as_str());
        if let Some(before) = self.before {
            let attempts = self.op.started().wrapping_sub(before);
            span.record("attempts", attempts);
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
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.run(|| self.record());
        panics.resume();
    }
}

impl<Op: Operation> Spanned<Op> {
    #[inline(never)]
    fn open(span: OwnSpan, op: Op, cx: Context, counts: bool) -> Self {
        if span.0.is_disabled() {
            return Self::Plain {
                attempt: op.attempt(cx),
            };
        }
        let end = End {
            op,
            before: counts.then(|| op.started()),
            ending: Ending::Cancelled,
            span: span.clone(),
        };
        let scope = span.enter();
        // An attempt may begin before it is polled.
        let attempt = Some(op.attempt(cx));
        drop(scope);
        Self::Open {
            attempt: InSpan { attempt, span },
            end,
        }
    }
}

impl<Op: Operation> Future for Spanned<Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.project() {
            SpannedProj::Plain { attempt } => attempt.poll(task),
            SpannedProj::Open { attempt, end } => {
                let outcome = ready!(attempt.poll(task));
                end.ending = Ending::of(&outcome.result);
                Poll::Ready(outcome)
            }
        }
    }
}

impl<Op: Operation> fmt::Debug for Spanned<Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spanned").finish_non_exhaustive()
    }
}
