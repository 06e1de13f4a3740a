//! Calls that must end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use backstop::{Clock, ManualClock};

/// Runs calls to their end.
pub(crate) trait Finish {
    /// Runs a future to its end. Panics if that takes a minute of the clock or very many polls, so that a call that is
    /// never admitted fails its test.
    fn finish<F: Future>(&self, future: F) -> F::Output;
}

impl Finish for ManualClock {
    fn finish<F: Future>(&self, future: F) -> F::Output {
        let (mut future, begin, mut polls) = (pin!(future), self.now(), 0);
        // Wakes the call even if nothing else does.
        let mut limit = pin!(self.sleep(Duration::from_secs(60)));
        self.block_on(poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            polls += 1;
            let is_over = limit.as_mut().poll(cx).is_ready();
            let waited = self.now().saturating_duration_since(begin);
            assert!(
                !is_over && polls < 100_000,
                "still waits after {waited:?} and {polls} polls"
            );
            Poll::Pending
        }))
    }
}
