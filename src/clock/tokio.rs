//! Tokio's clock.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::coop;

use super::sleep::SleepKind;
use super::{Clock, ClockHandle, Sleep, blocking, real};
use crate::instant::Instant;

/// Tokio's clock and timers. The default.
///
/// It obeys paused time: under `#[tokio::test(start_paused = true)]` every pattern runs in virtual
/// time. Inside [`call_blocking`](crate::Policy::call_blocking), where there may be no runtime, its
/// sleeps park the thread instead.
///
/// # Panics
///
/// As tokio's own timers do, a sleep panics when it is first polled outside a tokio runtime with
/// time enabled, unless inside `call_blocking`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

/// A tokio timer. `None` when it would never fire, and where threads sleep instead.
#[inline]
pub(super) fn timer(deadline: Instant) -> Option<Timer> {
    if deadline == Instant::FAR_FUTURE || blocking::is_active() {
        return None;
    }
    let at = real::to_std(deadline)?;
    Some(Timer {
        sleep: tokio::time::sleep_until(at.into()),
    })
}

pin_project! {
    /// A tokio timer that is looked at even when the operation has used up the task's share of
    /// tokio's cooperation budget: else an operation that does so on every poll would keep its own
    /// timeout from firing.
    pub(super) struct Timer {
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl Future for Timer {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.project().sleep;
        if coop::has_budget_remaining() {
            sleep.poll(cx)
        } else {
            pin!(coop::unconstrained(sleep)).poll(cx)
        }
    }
}

impl Clock for TokioClock {
    #[inline]
    fn now(&self) -> Instant {
        real::from_std(tokio::time::Instant::now().into_std())
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        match timer(deadline) {
            Some(timer) => Sleep::of(SleepKind::Tokio { timer }),
            None if blocking::is_active() => blocking::sleep_from(self.now(), deadline),
            None => Sleep::never(),
        }
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle::TOKIO
    }
}
