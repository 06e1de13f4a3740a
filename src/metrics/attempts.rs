//! The layer that counts attempts.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::series::{AttemptKind, Series, VerdictLabel};
use crate::clock::{BlockingClock, ClockHandle};
use crate::error::Error;
use crate::event::Panics;
use crate::instant::Instant;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::verdict::{ErrorClass, Health};

/// Counts and times attempts. Returned by [`Metrics::attempts`](super::Metrics::attempts).
///
/// Counts each attempt once, with its verdict: `success`, `transient`, `throttled`, `timeout`, `failure`,
/// `permanent`, `ignored`, or `cancelled` if it was dropped before it ended. Rejections by inner layers are not
/// attempts.
#[derive(Clone)]
pub struct Attempts {
    series: Arc<Series>,
    clock: ClockHandle,
}

impl Attempts {
    pub(super) fn new(series: Arc<Series>) -> Self {
        Self {
            series,
            clock: ClockHandle::preset().unwrap_or_else(|| BlockingClock.into()),
        }
    }

    /// Returns the layer on another clock. Default: tokio's, or [`BlockingClock`] without the feature `tokio`. On the
    /// clock of the stack, it shares the readings of the other layers.
    #[must_use]
    pub fn clock(mut self, clock: impl Into<ClockHandle>) -> Self {
        self.clock = clock.into();
        self
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").finish_non_exhaustive()
    }
}

impl Policy for Attempts {}

impl AtMostOnce for Attempts {}

impl Describe for Attempts {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Inspect);
    }
}

impl<'a, Op: Operation> Run<Op> for &'a Attempts {
    type Future = Attempting<'a, Op>;

    #[inline]
    fn run(self, op: Op, mut cx: Context) -> Attempting<'a, Op> {
        let start = cx.now(&self.clock);
        let kind = match (cx.is_hedge(), cx.attempt()) {
            (true, _) => AttemptKind::Hedge,
            (false, ..=1) => AttemptKind::First,
            _ => AttemptKind::Retry,
        };
        let counted = Counted {
            layer: self,
            kind,
            start,
            is_counted: false,
        };
        Attempting {
            attempt: op.attempt(cx),
            counted,
        }
    }
}

pin_project! {
    /// A run of an [`Attempts`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Attempting<'a, Op: Operation> {
        // Declared first, so that it is dropped before the attempt is counted.
        #[pin]
        attempt: Op::Attempt,
        counted: Counted<'a>,
    }
}

/// Counts an attempt when it ends or is dropped.
struct Counted<'a> {
    layer: &'a Attempts,
    kind: AttemptKind,
    start: Instant,
    is_counted: bool,
}

impl Counted<'_> {
    #[inline]
    fn count(&mut self, verdict: VerdictLabel, end: Instant) {
        self.is_counted = true;
        let length = end.saturating_duration_since(self.start);
        self.layer.series.attempt(self.kind, verdict, length);
    }
}

impl Drop for Counted<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_counted {
            let mut panics = Panics::default();
            panics.run(|| self.count(VerdictLabel::Cancelled, self.layer.clock.now()));
            panics.resume();
        }
    }
}

impl<Op: Operation> Future for Attempting<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut outcome = ready!(this.attempt.poll(task));
        match label(&outcome) {
            Some(verdict) => {
                let end = outcome.finished(&this.counted.layer.clock);
                this.counted.count(verdict, end);
            }
            None => this.counted.is_counted = true,
        }
        Poll::Ready(outcome)
    }
}

/// Returns the label of an outcome; `None` for a rejection.
fn label<T, E>(outcome: &Outcome<T, E>) -> Option<VerdictLabel> {
    let verdict = &outcome.verdict;
    Some(match (&outcome.result, verdict.health(), verdict.class()) {
        (Err(Error::Rejected(_)), ..) => return None,
        (Ok(_), Health::Healthy, _) => VerdictLabel::Success,
        (_, _, ErrorClass::Throttled) => VerdictLabel::Throttled,
        (_, _, ErrorClass::Timeout) => VerdictLabel::Timeout,
        (_, Health::Unhealthy, _) if verdict.is_retryable() => VerdictLabel::Transient,
        (_, Health::Unhealthy, _) => VerdictLabel::Failure,
        (_, Health::Healthy, _) => VerdictLabel::Permanent,
        (_, Health::Neutral, _) => VerdictLabel::Ignored,
    })
}

impl<Op: Operation> fmt::Debug for Attempting<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempting").finish_non_exhaustive()
    }
}
