//! Five patterns around one call: ours as a tuple, the peers combined by hand.

use std::num::NonZeroU32;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use backstop::circuit_breaker::Trip;
use backstop::{
    Bulkhead, CircuitBreaker, ClockHandle, FastClock, Policy, Quota, RateLimiter, Retry, Timeout,
    TokioClock,
};
use failsafe::futures::CircuitBreaker as _;
use failsafe::{Config, StateMachine, backoff, failure_policy};
use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use tokio::sync::Semaphore;

use super::{Row, Target};
use crate::measure::Candidate;
use crate::work::{Failure, future, leak, pending_once, ready};

const LIMIT: Duration = Duration::from_secs(2);
const RATE: u32 = 1_000_000_000;
const PLACES: usize = 25;

/// Limiter, breaker, bulkhead, retry and timeout, the order in which the peers were measured.
type Ours = (RateLimiter, CircuitBreaker, Bulkhead, Retry, Timeout);

fn ours(clock: impl Into<ClockHandle>) -> &'static Ours {
    let clock = clock.into();
    let sound = "the settings are valid";
    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(5));
    leak((
        RateLimiter::builder()
            .quota(Quota::per_second(RATE.into()))
            .clock(clock.clone())
            .build()
            .expect(sound),
        breaker.clock(clock.clone()).build().expect(sound),
        Bulkhead::builder()
            .max_concurrent(PLACES as u32)
            .clock(clock.clone())
            .build()
            .expect(sound),
        Retry::builder().clock(clock.clone()).build().expect(sound),
        Timeout::builder()
            .after(LIMIT)
            .clock(clock)
            .build()
            .expect(sound),
    ))
}

type Failsafe = StateMachine<failure_policy::ConsecutiveFailures<backoff::Constant>, ()>;

/// The fastest peer of each pattern.
struct ByHand {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    breaker: Failsafe,
    bulkhead: Semaphore,
    backoff: ExponentialBuilder,
}

impl ByHand {
    fn new() -> Self {
        let rate = NonZeroU32::new(RATE).expect("it is not zero");
        let policy =
            failure_policy::consecutive_failures(5, backoff::constant(Duration::from_secs(5)));
        Self {
            limiter: governor::RateLimiter::direct(governor::Quota::per_second(rate)),
            breaker: Config::new().failure_policy(policy).build(),
            bulkhead: Semaphore::new(PLACES),
            backoff: ExponentialBuilder::default(),
        }
    }

    async fn call<Fut>(&self, operation: fn() -> Fut) -> Result<u64, Failure>
    where
        Fut: Future<Output = Result<u64, Failure>>,
    {
        self.limiter.check().map_err(|_| Failure)?;
        let guarded = async {
            let _permit = self.bulkhead.acquire().await.map_err(|_| Failure)?;
            let attempt = || async move {
                let timed = tokio::time::timeout(LIMIT, operation()).await;
                timed.map_err(|_| Failure)?
            };
            attempt.retry(self.backoff).await
        };
        self.breaker.call(guarded).await.map_err(|_| Failure)
    }
}

pub fn rows() -> Vec<Row> {
    let (fast, tokio_clock) = (ours(FastClock::new()), ours(TokioClock));
    let by_hand = leak(ByHand::new());
    let bare_timeout = || {
        future("tokio timeout", || {
            tokio::time::timeout(LIMIT, pending_once())
        })
    };
    let mut rows = vec![];
    for (threads, of_timeout) in [(1, 0.75), (2, 0.4)] {
        rows.extend([
            Row::race(
                "stack of five, ready, fast clock",
                threads,
                0.3,
                future("tuple", || fast.call(ready)),
                vec![future("by hand", || by_hand.call(ready))],
            ),
            Row::race(
                "stack of five, pending once, fast clock, against a bare timeout",
                threads,
                of_timeout,
                future("tuple", || fast.call(pending_once)),
                vec![bare_timeout()],
            ),
            Row::race(
                "stack of five, pending once, tokio clock",
                threads,
                0.85,
                future("tuple", || tokio_clock.call(pending_once)),
                by_hand_pending(by_hand),
            ),
        ]);
    }
    rows.push(Row::known(
        "stack of five, size of the future of a 16-byte operation",
        "bytes",
        Target::Ratio(0.9),
        size_of_val(&tokio_clock.call(pending_once)) as f64,
        [("by hand", size_of_val(&by_hand.call(pending_once)) as f64)],
    ));
    rows.push(Row::no_allocations(
        "stack of five, allocations",
        future("tuple", || fast.call(pending_once)),
        by_hand_pending(by_hand),
    ));
    rows
}

fn by_hand_pending(by_hand: &'static ByHand) -> Vec<Candidate> {
    vec![future("by hand", || by_hand.call(pending_once))]
}
