//! `Debug` and `Display` print what a person wants to read.

use std::fmt::Debug;
use std::time::Duration;

use backstop::policy::Attempt;
use backstop::{
    Backoff, BlockingClock, Bulkhead, CallOptions, CircuitBreaker, ClockHandle, Context, Error,
    Health, Hedge, Keyed, LoadShedder, ManualClock, Outcome, Pipeline, Policy, Quota, RateLimiter,
    Reason, Retry, RetryBudget, Throttle, TimedOut, Timeout, Verdict, deadline,
};

use super::{ms, retry, timeout};

/// Numbers that stand for "never" and "not known", and addresses.
#[track_caller]
fn is_readable(value: &dyn Debug) {
    let text = format!("{value:?} {value:#?}");
    for sentinel in ["18446744073709551615", "9223372036854775807", "ClockId"] {
        assert!(!text.contains(sentinel), "{text}");
    }
}

#[test]
fn values_print_without_sentinels() {
    let clock = ManualClock::new();
    let max = Duration::MAX;
    is_readable(&Verdict::success());
    is_readable(&Verdict::throttled(None));
    is_readable(&Context::new());
    is_readable(&backstop::Instant::FAR_FUTURE);
    is_readable(&Outcome::<u8, u8>::of(Ok(1)));
    is_readable(&Error::<u8>::Rejected(backstop::Rejected::new(
        "x",
        Reason::Shed,
    )));
    is_readable(&TimedOut::new("x", Duration::from_secs(1)));
    is_readable(&CallOptions::new());
    is_readable(&Backoff::NONE);
    is_readable(&Backoff::fixed(ms(1)));
    is_readable(&ClockHandle::from(BlockingClock));
    is_readable(&ClockHandle::from(clock.clone()));
    is_readable(&deadline::scope_on(
        clock.clone(),
        max,
        std::future::ready(1),
    ));
    is_readable(&Health::Neutral);
    let attempt = clock.block_on(
        timeout(&clock, 10).call_with(|attempt: Attempt| async move { Ok::<_, ()>(attempt) }),
    );
    is_readable(&attempt);
    let never = Timeout::builder().after(max).clock(clock.clone());
    is_readable(&never);
    is_readable(&never.build());
    let endless = Retry::builder()
        .max_hint(max)
        .max_elapsed(max)
        .clock(clock.clone());
    is_readable(&endless);
    is_readable(&endless.build());
    let budgets = [
        RetryBudget::percentage().clock(clock.clone()).build(),
        RetryBudget::tokens().build(),
        RetryBudget::grpc(10, 0.1).build(),
        RetryBudget::in_flight().build(),
    ];
    is_readable(&budgets);
}

#[test]
fn handles_print_without_sentinels() {
    let clock = &ManualClock::new();
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    is_readable(&breaker);
    is_readable(&breaker.clone().build());
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(10))
        .clock(clock.clone());
    is_readable(&limiter);
    is_readable(&limiter.clone().build());
    is_readable(&Bulkhead::builder().clock(clock.clone()).build());
    is_readable(&Throttle::builder().clock(clock.clone()).build());
    is_readable(&LoadShedder::builder().clock(clock.clone()).build());
    is_readable(&Hedge::builder().clock(clock.clone()).build());
    is_readable(&Pipeline::new((timeout(clock, 1), retry(clock))));
    let keyed = Keyed::new(move |_: &u8| breaker.clone().build().unwrap());
    let _ = keyed.get(&1);
    is_readable(&keyed);
}
