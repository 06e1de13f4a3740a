//! A timer for futures whose deadline changes while they wait.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::handle::ClockHandle;
use super::sleep::Sleep;
use crate::instant::Instant;

pin_project! {
    /// A sleep that is replaced when its end moves, and only then.
    pub(crate) struct Alarm {
        at: Instant,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    /// Returns an alarm that is not set.
    pub(crate) const fn new() -> Self {
        Self {
            at: Instant::FAR_FUTURE,
            sleep: None,
        }
    }

    /// Waits until `at` on `clock`: ready once when that has come.
    pub(crate) fn poll_until(
        self: Pin<&mut Self>,
        clock: &ClockHandle,
        at: Instant,
        task: &mut Context<'_>,
    ) -> Poll<()> {
        let mut this = self.project();
        if this.sleep.is_none() || *this.at != at {
            let sleep = match at {
                Instant::FAR_FUTURE => Sleep::never(),
                _ => clock.sleep_until(at),
            };
            this.sleep.set(Some(sleep));
            *this.at = at;
        }
        if let Some(sleep) = this.sleep.as_mut().as_pin_mut() {
            ready!(sleep.poll(task));
        }
        this.sleep.set(None);
        Poll::Ready(())
    }
}
