//! Waiting for an instant, on any clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

#[cfg(feature = "fast-clock")]
use super::fast;
#[cfg(feature = "tokio")]
use super::tokio;
use super::{ClockHandle, blocking, manual};
use crate::instant::Instant;

pin_project! {
    /// Waits for an instant on a clock. Made by [`Clock::sleep_until`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up its timer and nothing else.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Sleep {
        #[pin]
        kind: SleepKind,
    }
}

pin_project! {
    #[project = SleepProj]
    pub(super) enum SleepKind {
        Tokio { #[pin] timer: TokioTimer },
        Fast { timer: FastTimer },
        Other { other: OtherSleep },
    }
}

/// What calls that are in a hurry do not wait for. Apart, so that the others need not tell seven
/// kinds from each other.
pub(super) enum OtherSleep {
    Never,
    Yield {
        yielded: bool,
    },
    Blocking {
        timer: blocking::Timer,
    },
    Manual {
        timer: manual::Timer,
    },
    Custom {
        future: Pin<Box<dyn Future<Output = ()> + Send>>,
    },
}

// The variants above stay when a feature is off, but nothing can make one.
#[cfg(not(feature = "tokio"))]
type TokioTimer = std::future::Pending<()>;
#[cfg(feature = "tokio")]
type TokioTimer = tokio::Timer;
#[cfg(not(feature = "fast-clock"))]
type FastTimer = std::future::Pending<()>;
#[cfg(feature = "fast-clock")]
type FastTimer = fast::Timer;

impl std::fmt::Debug for SleepKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokio { .. } => "Tokio",
            Self::Fast { .. } => "Fast",
            Self::Other { other } => match other {
                OtherSleep::Never => "Never",
                OtherSleep::Yield { .. } => "Yield",
                OtherSleep::Blocking { .. } => "Blocking",
                OtherSleep::Manual { .. } => "Manual",
                OtherSleep::Custom { .. } => "Custom",
            },
        })
    }
}

impl Sleep {
    /// A sleep of a clock of your own. Allocates once, to hide the future's type.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::other(OtherSleep::Custom {
            future: Box::pin(future),
        })
    }

    /// A sleep that never ends, for deadlines that never come. Does not allocate.
    pub fn never() -> Self {
        Self::other(OtherSleep::Never)
    }

    /// A sleep of no time that lets other tasks run first.
    pub(crate) const fn yield_once() -> Self {
        Self::other(OtherSleep::Yield { yielded: false })
    }

    #[inline]
    pub(super) const fn of(kind: SleepKind) -> Self {
        Self { kind }
    }

    pub(super) const fn other(other: OtherSleep) -> Self {
        Self::of(SleepKind::Other { other })
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().kind.project() {
            SleepProj::Tokio { timer } => timer.poll(cx),
            SleepProj::Fast { timer } => Pin::new(timer).poll(cx),
            SleepProj::Other { other } => other.poll(cx),
        }
    }
}

impl OtherSleep {
    #[inline(never)]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Never => Poll::Pending,
            Self::Yield { yielded: true } => Poll::Ready(()),
            Self::Yield { yielded } => {
                *yielded = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Blocking { timer } => Pin::new(timer).poll(cx),
            Self::Manual { timer } => Pin::new(timer).poll(cx),
            Self::Custom { future } => future.as_mut().poll(cx),
        }
    }
}

/// Puts a sleep of `clock` until `deadline` into `slot`.
///
/// The same as setting the slot to what [`ClockHandle::sleep_until`] returns, but each kind of
/// sleep is built in its place: a sleep is 112 bytes, of which a fresh one uses a few, and moving
/// one on costs more than making it.
#[inline(always)]
#[cfg_attr(not(feature = "tokio"), expect(unused_mut))]
pub(crate) fn arm(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    match &clock.kind {
        #[cfg(feature = "tokio")]
        super::Kind::Tokio => match tokio::timer(deadline) {
            Some(timer) => slot.set(Some(Sleep::of(SleepKind::Tokio { timer }))),
            None => arm_other(clock, deadline, slot),
        },
        #[cfg(feature = "fast-clock")]
        super::Kind::Fast => match fast::timer(deadline) {
            Some(timer) => slot.set(Some(Sleep::of(SleepKind::Fast { timer }))),
            None => arm_other(clock, deadline, slot),
        },
        _ => arm_other(clock, deadline, slot),
    }
}

#[cold]
fn arm_other(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    slot.set(Some(clock.sleep_until(deadline)));
}
