//! An asynchronous health check in place of trial calls.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::CircuitBreaker;
use crate::clock::ClockHandle;
use crate::event::State;

impl CircuitBreaker {
    /// Checks the health of the dependency while the circuit is open, in place of trial calls.
    ///
    /// While the returned future runs, an open circuit admits no trial calls, and refusals do not
    /// say until when. `check` is called when the circuit opens, and again `interval` after each end
    /// of it; the circuit closes when it succeeds. A check that takes longer than the
    /// [`probe_lease`](super::CircuitBreakerBuilder::probe_lease), or by default than the interval
    /// and a second, failed. Spawn the future, or keep it beside the work; it ends when it is dropped, and trial calls
    /// are admitted again.
    ///
    /// An interval of zero is one of a millisecond.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the check that runs and changes nothing else. So does a panic of
    /// the check.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::CircuitBreaker;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let breaker = CircuitBreaker::builder().build().expect("the defaults are valid");
    /// let second = Duration::from_secs(1);
    /// let checker = breaker.clone();
    /// tokio::spawn(async move {
    ///     let ping = || async { Ok::<_, std::io::Error>(()) };
    ///     checker.probe_with(second, ping).await;
    /// });
    ///
    /// breaker.trip();
    /// assert!(breaker.try_acquire().is_err());
    /// tokio::time::sleep(2 * second).await;
    /// assert!(breaker.try_acquire().is_ok());
    /// # }
    /// ```
    pub async fn probe_with<F, Fut, T, E>(&self, interval: Duration, check: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let interval = interval.max(Duration::from_millis(1));
        let second = Duration::from_secs(1);
        let limit = self.inner.look(|machine| machine.lease());
        let limit = limit.unwrap_or(interval.saturating_add(second));
        let clock = &self.inner.base.clock;
        let mut transitions = self.subscribe();
        let _checking = Checking::new(self);
        loop {
            while self.inner.look(|machine| machine.underlying()) == State::Open {
                let generation = self.inner.look(|machine| machine.generation());
                let is_healthy = matches!(within(limit, clock, check()).await, Some(Ok(_)));
                if is_healthy {
                    let now = clock.now();
                    self.inner
                        .with_machine(None, now, |machine| machine.checked(generation, now));
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

/// The result of `future`, unless it takes longer than `limit`.
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

/// Keeps trial calls out for as long as it lives.
struct Checking<'a> {
    breaker: &'a CircuitBreaker,
}

impl<'a> Checking<'a> {
    fn new(breaker: &'a CircuitBreaker) -> Self {
        let inner = &breaker.inner;
        inner.with_machine(None, inner.base.clock.now(), |machine| {
            machine.add_checker();
        });
        Self { breaker }
    }
}

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        let inner = &self.breaker.inner;
        inner.with_machine(None, inner.base.clock.now(), |machine| {
            machine.remove_checker();
        });
    }
}
