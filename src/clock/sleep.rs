//! Waiting for an instant, on any clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::instant::Instant;

pub(super) mod blocking;
#[cfg(feature = "fast-clock")]
pub(super) mod fast;
pub(super) mod manual;
#[cfg(feature = "fast-clock")]
mod pool;
#[cfg(feature = "tokio")]
pub(super) mod tokio;

pin_project! {
    /// Waits for an instant on a clock. Returned by [`Clock::sleep_until`](crate::Clock::sleep_until).
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up its timer and nothing else.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Sleep {
        #[pin]
        kind: Kind,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind {
        Tokio { #[pin] timer: TokioTimer },
        Fast { timer: FastTimer },
        Other { other: Other },
    }
}

/// Kinds of sleeps that no hot path waits for. They have their own enum, so that hot paths match three kinds instead
/// of seven.
enum Other {
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

// A stand-in: the variants above exist without the feature, but are never constructed.
#[cfg(not(feature = "tokio"))]
type TokioTimer = std::future::Pending<()>;
#[cfg(feature = "tokio")]
type TokioTimer = tokio::Timer;
#[cfg(not(feature = "fast-clock"))]
type FastTimer = std::future::Pending<()>;
#[cfg(feature = "fast-clock")]
type FastTimer = fast::Timer;

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokio { .. } => "Tokio",
            Self::Fast { .. } => "Fast",
            Self::Other { other } => match other {
                Other::Never => "Never",
                Other::Yield { .. } => "Yield",
                Other::Blocking { .. } => "Blocking",
                Other::Manual { .. } => "Manual",
                Other::Custom { .. } => "Custom",
            },
        })
    }
}

impl Sleep {
    /// Returns a sleep for a clock of your own. Allocates once, to erase the future's type.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::other(Other::Custom {
            future: Box::pin(future),
        })
    }

    /// Returns a sleep that never ends. Does not allocate.
    pub fn never() -> Self {
        Self::other(Other::Never)
    }

    /// Returns a sleep that is pending once, so that other tasks run first.
    pub(crate) const fn yield_once() -> Self {
        Self::other(Other::Yield { yielded: false })
    }

    /// Returns a sleep that parks the thread.
    pub(super) const fn blocking(deadline: Instant) -> Self {
        Self::other(match deadline {
            Instant::FAR_FUTURE => Other::Never,
            deadline => Other::Blocking {
                timer: blocking::Timer::new(deadline),
            },
        })
    }

    /// Returns a sleep that parks the thread for the time from `now` to `deadline`, even if the clock of these
    /// instants is paused.
    #[cfg(feature = "tokio")]
    pub(super) fn blocking_from(now: Instant, deadline: Instant) -> Self {
        match deadline {
            Instant::FAR_FUTURE => Self::never(),
            deadline => {
                let wait = deadline.saturating_duration_since(now);
                Self::blocking(super::system::now() + wait)
            }
        }
    }

    pub(super) const fn manual(timer: manual::Timer) -> Self {
        Self::other(Other::Manual { timer })
    }

    #[cfg(feature = "tokio")]
    #[inline]
    pub(super) const fn tokio(timer: tokio::Timer) -> Self {
        Self {
            kind: Kind::Tokio { timer },
        }
    }

    #[cfg(feature = "fast-clock")]
    #[inline]
    pub(super) const fn fast(timer: fast::Timer) -> Self {
        Self {
            kind: Kind::Fast { timer },
        }
    }

    const fn other(other: Other) -> Self {
        Self {
            kind: Kind::Other { other },
        }
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().kind.project() {
            KindProj::Tokio { timer } => timer.poll(cx),
            KindProj::Fast { timer } => Pin::new(timer).poll(cx),
            KindProj::Other { other } => other.poll(cx),
        }
    }
}

impl Other {
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
