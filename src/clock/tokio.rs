//! Tokio's clock.

use super::sleep::tokio::Timer;
use super::{Clock, Sleep, runtimes};
use crate::blocking;
use crate::instant::Instant;

/// Tokio's clock and timers. The default.
///
/// It obeys paused time: under `#[tokio::test(start_paused = true)]` every pattern runs in virtual time. Inside
/// [`call_blocking`](crate::Policy::call_blocking), which works without a runtime, its sleeps park the thread
/// instead.
///
/// It never goes back. When tokio is built with `test-util`, each runtime has its own time. A runtime that begins
/// behind an earlier one that was paused is shifted to begin there. So a `static` limiter may serve several tests,
/// one after another. It may not serve two paused runtimes at once, because their times advance independently.
///
/// # Panics
///
/// Like tokio's own timers, a sleep panics when it is first polled outside a tokio runtime with time enabled, unless
/// inside `call_blocking`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    #[inline]
    fn now(&self) -> Instant {
        runtimes::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        match Timer::new(deadline) {
            Some(timer) => Sleep::tokio(timer),
            None if blocking::is_active() => Sleep::blocking_from(self.now(), deadline),
            None => Sleep::never(),
        }
    }
}
