//! Tokio's timers.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::coop;

use crate::blocking;
use crate::clock::runtimes;
use crate::instant::Instant;

pin_project! {
    /// A tokio timer that is polled even when the operation has used up the task's cooperation budget. Otherwise, an
    /// operation that does so on every poll would keep its own timeout from firing.
    pub(in crate::clock) struct Timer {
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl Timer {
    /// Returns a timer; `None` if it would never fire, or where threads sleep instead.
    #[inline]
    pub(in crate::clock) fn new(deadline: Instant) -> Option<Self> {
        if deadline == Instant::FAR_FUTURE || blocking::is_active() {
            return None;
        }
        let at = runtimes::to_std(deadline)?;
        Some(Self {
            sleep: tokio::time::sleep_until(at.into()),
        })
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
