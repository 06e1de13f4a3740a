//! `Standard` against the same layers combined by hand from the fastest peers.

use std::num::NonZeroU32;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use backstop::circuit_breaker::Trip;
use backstop::{CircuitBreaker, ClockHandle, FastClock, Policy, Quota, Standard, TokioClock};
use failsafe::futures::CircuitBreaker as _;
use failsafe::{Config, StateMachine, backoff, failure_policy};
use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};

use super::Row;
use crate::work::{Failure, future, leak, pending_once, ready};

const TOTAL: Duration = Duration::from_secs(30);
const ATTEMPT: Duration = Duration::from_secs(10);
const RATE: u32 = 1_000_000_000;

/// Limiter, total timeout, retry with a budget, breaker, attempt timeout.
fn standard(clock: impl Into<ClockHandle>) -> &'static Standard {
    let standard = Standard::builder()
        .quota(Quota::per_second(RATE.into()))
        .total_timeout(TOTAL)
        .breaker(CircuitBreaker::builder().trip_on(Trip::consecutive(5)))
        .attempt_timeout(ATTEMPT)
        .clock(clock);
    leak(standard.build().expect("the settings are valid"))
}

/// The same layers. Its retry has no budget, since no peer has one.
struct ByHand {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    backoff: ExponentialBuilder,
    breaker: StateMachine<failure_policy::ConsecutiveFailures<backoff::Constant>, ()>,
}

impl ByHand {
    fn new() -> Self {
        let rate = NonZeroU32::new(RATE).expect("it is not zero");
        let policy =
            failure_policy::consecutive_failures(5, backoff::constant(Duration::from_secs(5)));
        Self {
            limiter: governor::RateLimiter::direct(governor::Quota::per_second(rate)),
            backoff: ExponentialBuilder::default(),
            breaker: Config::new().failure_policy(policy).build(),
        }
    }

    async fn call<Fut>(&self, operation: fn() -> Fut) -> Result<u64, Failure>
    where
        Fut: Future<Output = Result<u64, Failure>>,
    {
        self.limiter.check().map_err(|_| Failure)?;
        let attempt = || async move {
            let timed = async {
                let timed = tokio::time::timeout(ATTEMPT, operation()).await;
                timed.map_err(|_| Failure)?
            };
            self.breaker.call(timed).await.map_err(|_| Failure)
        };
        let all = tokio::time::timeout(TOTAL, attempt.retry(self.backoff)).await;
        all.map_err(|_| Failure)?
    }
}

pub fn rows() -> Vec<Row> {
    let (fast, tokio_clock) = (standard(FastClock::new()), standard(TokioClock));
    let by_hand = leak(ByHand::new());
    vec![
        Row::race(
            "standard, ready, fast clock",
            1,
            1.0,
            future("standard", || fast.call(ready)),
            vec![future("by hand", || by_hand.call(ready))],
        ),
        Row::race(
            "standard, pending once, fast clock",
            1,
            0.75,
            future("standard", || fast.call(pending_once)),
            vec![future("by hand", || by_hand.call(pending_once))],
        ),
        Row::race(
            "standard, pending once, tokio clock",
            1,
            1.0,
            future("standard", || tokio_clock.call(pending_once)),
            vec![future("by hand", || by_hand.call(pending_once))],
        ),
        Row::no_allocations(
            "standard, allocations",
            future("standard", || fast.call(pending_once)),
            vec![future("by hand", || by_hand.call(pending_once))],
        ),
    ]
}
