//! Asynchronous health checks, which replace probes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::CircuitBreaker;
use crate::clock::ClockHandle;
use crate::event::State;

impl CircuitBreaker {
    /// Runs health checks of the dependency while the circuit is open. They replace probes.
    ///
    /// `check` is called when the circuit opens, and again `interval` after each failed check. The circuit
    /// closes when a check succeeds. During a pause, a [`trip_for`](Self::trip_for), or the time of a server's
    /// hint, the circuit stays open and nothing is checked. A check fails if it takes longer than the
    /// [`probe_lease`](super::CircuitBreakerBuilder::probe_lease), by default longer than the interval and one
    /// second.
    ///
    /// While the returned future exists, an open circuit admits no probes, and rejections have no
    /// `retry_after`. The future ends only when it is dropped; then probes are admitted again. Spawn it, or
    /// poll it alongside the work.
    ///
    /// An interval below one millisecond is one millisecond.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the running check and changes nothing else. A panic of the check has the
    /// same effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::CircuitBreaker;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let breaker = CircuitBreaker::builder().build().expect("the defaults are valid");
    /// let checked = breaker.clone();
    /// tokio::spawn(async move {
    ///     let ping = || async { Ok::<_, std::io::Error>(()) };
    ///     checked.check_with(Duration::from_secs(1), ping).await;
    /// });
    ///
    /// breaker.trip();
    /// assert!(breaker.try_acquire().is_err());
    /// tokio::time::sleep(Duration::from_secs(2)).await;
    /// assert!(breaker.try_acquire().is_ok());
    /// # }
    /// ```
    pub async fn check_with<F, Fut, T, E>(&self, interval: Duration, check: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let interval = interval.max(Duration::from_millis(1));
        let limit = self.inner.read(|machine| machine.probe_lease());
        let limit = limit.unwrap_or(interval.saturating_add(Duration::from_secs(1)));
        let clock = &self.inner.base.clock;
        let mut transitions = self.subscribe();
        let _suspended = SuspendedProbes::new(self);
        loop {
            while self.inner.read(|machine| machine.underlying()) == State::Open {
                let (generation, check_from) = self
                    .inner
                    .read(|machine| (machine.generation(), machine.phase().check_from()));
                let now = clock.now();
                if let Some(check_from) = check_from.filter(|from| now < *from) {
                    // Waits at most one interval, because a break can change without a transition.
                    clock.sleep_until(check_from.min(now + interval)).await;
                    continue;
                }
                let is_healthy = matches!(within(limit, clock, check()).await, Some(Ok(_)));
                if is_healthy {
                    let now = clock.now();
                    self.inner.with_machine(None, now, |machine| {
                        machine.close_after_check(generation, now);
                    });
                } else {
                    clock.sleep_until(clock.now() + interval).await;
                }
            }
            if transitions.next().await.is_none() {
                return;
            }
        }
    }
}

/// Returns the output of `future`, or `None` if it takes longer than `limit`.
async fn within<F: Future>(limit: Duration, clock: &ClockHandle, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(clock.sleep_until(clock.now() + limit));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Suspends probes until it is dropped.
struct SuspendedProbes<'a> {
    breaker: &'a CircuitBreaker,
}

impl<'a> SuspendedProbes<'a> {
    fn new(breaker: &'a CircuitBreaker) -> Self {
        breaker.change(|machine, _| machine.suspend_probes());
        Self { breaker }
    }
}

impl Drop for SuspendedProbes<'_> {
    fn drop(&mut self) {
        self.breaker
            .change_in_drop(|machine, _| machine.resume_probes());
    }
}
