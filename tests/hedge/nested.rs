//! Retries and hedges that share one budget, around layers that reject and wait.

use super::*;
use std::future::Future;
use std::task::{Context, Poll, Waker};

use backstop::{Backoff, Bulkhead, Jitter, Quota, RateLimiter, Retry, RetryBudget};

/// Numbers below a bound, the same for each seed.
struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    fn below(&self, bound: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x % bound
    }
}

/// Runs one call through random layers, or drops it in between. Returns its result, and how many attempts failed.
fn run(
    random: &Random,
    clock: &ManualClock,
    budget: &RetryBudget,
) -> (Option<Result<(), Error<Fault>>>, u32) {
    let retry = || {
        let backoff = Backoff::fixed(ms(5)).jitter(Jitter::None);
        let retry = Retry::builder().max_attempts(1 + random.below(3) as u32);
        let retry = retry.backoff(backoff).budget(budget.clone());
        let retry = retry.clock(clock.clone()).build().unwrap();
        (random.below(2) == 0).then_some(retry)
    };
    let hedge = hedge(clock, 10).max_hedges(1 + random.below(3) as u32);
    let hedge = hedge.budget(budget.clone()).build().unwrap();
    let bulkhead = Bulkhead::builder().max_concurrent(1 + random.below(2) as u32);
    let bulkhead = bulkhead.max_waiting(1 + random.below(3) as usize);
    let bulkhead = bulkhead.max_wait(ms(1 + random.below(30)));
    let bulkhead = bulkhead.clock(clock.clone()).build().unwrap();
    let limiter = RateLimiter::builder().quota(Quota::new(1, ms(20)).burst(3));
    let limiter = limiter.clock(clock.clone()).build().unwrap();
    let failures = &Cell::new(0);
    let stack = (retry(), &hedge, retry(), &bulkhead, limiter, classify());
    let mut call = Box::pin(stack.call(|| {
        let (after, does) = (random.below(40), random.below(7));
        async move {
            if after > 5 {
                clock.sleep(ms(after)).await;
            }
            if does >= 3 {
                failures.set(failures.get() + 1);
            }
            match does {
                0..3 => Ok(()),
                3..5 => Err(Fault::Down(0)),
                5 => Err(Fault::Busy(10)),
                _ => Err(Fault::Final),
            }
        }
    }));
    let mut result = None;
    for _ in 0..random.below(400) {
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => clock.advance(ms(1)),
            Poll::Ready(ended) => {
                result = Some(ended);
                break;
            }
        }
    }
    drop(call);
    assert_eq!(hedge.snapshot().in_flight, 0);
    let seen = bulkhead.snapshot();
    assert_eq!((seen.in_flight, seen.waiting), (0, 0));
    assert_eq!(clock.sleepers(), 0);
    (result, failures.get())
}

#[test]
fn a_budget_counts_each_failed_attempt_once_whatever_is_nested() {
    for seed in 0..3000 {
        let (random, clock) = (Random::new(seed), ManualClock::new());
        let budget = RetryBudget::grpc(100, 0.5).build().unwrap();
        let (result, failures) = run(&random, &clock, &budget);
        let Some(result) = result else {
            continue;
        };
        let earned = if result.is_ok() { 0.5 } else { 0.0 };
        let left = (100.0 - f64::from(failures) + earned).min(100.0);
        assert_eq!(budget.snapshot().available, left, "seed {seed}: {result:?}");
    }
}

#[test]
fn a_budget_has_nothing_in_flight_after_a_call_whatever_is_nested() {
    for seed in 0..3000 {
        let (random, clock) = (Random::new(seed), ManualClock::new());
        let floor = 1 + random.below(4) as u32;
        let budget = RetryBudget::in_flight().ratio(1.0).floor(floor);
        let budget = budget.build().unwrap();
        let before = budget.snapshot();
        run(&random, &clock, &budget);
        assert_eq!(budget.snapshot(), before, "seed {seed}");
    }
}

#[test]
fn a_bucket_earns_no_more_than_the_reward_of_a_call_whatever_is_nested() {
    for seed in 0..3000 {
        let (random, clock) = (Random::new(seed), ManualClock::new());
        let budget = RetryBudget::tokens().capacity(100).initial(50);
        let budget = budget.build().unwrap();
        run(&random, &clock, &budget);
        let left = budget.snapshot().available;
        assert!(left <= 51.0, "seed {seed}: {left}");
    }
}
