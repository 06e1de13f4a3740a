//! Asynchronous health checks, which replace probes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::CircuitBreaker;
use super::transitions::Transitions;
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
    /// An interval below one millisecond is one millisecond. If [`Standard::reconfigure`](crate::Standard::reconfigure)
    /// replaces the breaker, the checks continue for the new one.
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
        let mut breaker = self.in_force();
        let mut transitions = breaker.subscribe();
        let suspension = Arc::default();
        breaker.suspend_with(&suspension);
        loop {
            // A replaced breaker passes the subscription and the suspension on.
            breaker = breaker.in_force();
            let (inner, clock) = (&breaker.inner, &breaker.inner.base.clock);
            let open = inner.read(|machine| {
                let open = (machine.generation(), machine.phase().check_from());
                (machine.underlying() == State::Open).then_some((open, machine.probe_lease()))
            });
            let Some(((generation, check_from), lease)) = open else {
                if !changed(&mut transitions, &breaker).await {
                    return;
                }
                continue;
            };
            let now = clock.now();
            if let Some(check_from) = check_from.filter(|from| now < *from) {
                // Waits at most one interval, because a break can change without a transition.
                clock.sleep_until(check_from.min(now + interval)).await;
                continue;
            }
            let limit = lease.unwrap_or(interval.saturating_add(Duration::from_secs(1)));
            let is_healthy = matches!(within(limit, clock, check()).await, Some(Ok(_)));
            if is_healthy {
                let now = clock.now();
                inner.with_machine(None, now, |machine| {
                    machine.close_after_check(generation, now);
                });
            } else {
                clock.sleep_until(clock.now() + interval).await;
            }
        }
    }
}

/// Waits until the circuit has changed, or another breaker has replaced it. Returns `false` once it has been dropped.
async fn changed(transitions: &mut Transitions, breaker: &CircuitBreaker) -> bool {
    poll_fn(|cx| match transitions.poll_next_transition(cx) {
        Poll::Ready(transition) => Poll::Ready(transition.is_some()),
        // Checked after the waker was registered, which a replacement wakes.
        Poll::Pending if breaker.is_replaced() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    })
    .await
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
