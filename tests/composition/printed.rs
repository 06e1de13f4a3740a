//! `Debug` and `Display` print what a person wants to read.

use std::fmt::Debug;
use std::time::Duration;

use backstop::adaptive_rate::CubicRate;
use backstop::bulkhead::limit::{
    Aimd, Calibration, Correlated, Gradient, Gradient2, Vegas, Windowed,
};
use backstop::codel::Codel;
use backstop::load_shedder::UserFairness;
use backstop::policy::Attempt;
use backstop::{
    Backoff, BlockingClock, Bulkhead, CallOptions, CircuitBreaker, CircuitVotes, ClockHandle,
    Coalesce, Context, DeadLetterQueue, Endpoints, Error, Health, Hedge, Keyed, KeyedRateLimiter,
    LoadShedder, ManualClock, Outcome, Pipeline, Policy, Quota, RateLimiter, Reason, Retry,
    RetryBudget, SharedBulkhead, SharedKeyedRateLimiter, SharedRateLimiter, Stale, Standard,
    Throttle, TimedOut, Timeout, Verdict, deadline,
};

use super::{ms, retry, timeout};

/// Numbers that stand for "never" and "not known", and addresses.
#[track_caller]
fn is_readable(value: &dyn Debug) {
    let text = format!("{value:?} {value:#?}");
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let is_large = |number: &str| number.parse::<u128>().is_ok_and(|n| n > 10_u128.pow(18));
    let large = numbers.filter(|number| !number.starts_with('0') && is_large(number));
    assert_eq!(large.collect::<Vec<_>>(), [""; 0], "{text}");
    for word in ["ClockId", "packed"] {
        assert!(!text.contains(word), "{word}: {text}");
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

/// A handle, its builder, and its snapshot.
macro_rules! readable {
    ($($builder:expr;)+) => {
        $({
            let builder = $builder;
            is_readable(&builder);
            let built = builder.build().unwrap();
            is_readable(&built);
            is_readable(&built.snapshot());
        })+
    };
}

#[test]
fn builders_handles_and_snapshots_print_without_sentinels() {
    let clock = ManualClock::new();
    let store = backstop::store::MemoryStore::new(clock.clone());
    let max = Duration::MAX;
    let quota = Quota::per_second(10);
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    readable! {
        breaker.clone();
        breaker.clone().slow_call(max).max_half_open(max).probe_lease(max).ramp_up(max).max_hint(max);
        Bulkhead::builder().clock(clock.clone()).max_concurrent(u32::MAX);
        Bulkhead::builder().clock(clock.clone()).max_waiting(usize::MAX).max_wait(max).partition("a", 0.5);
        Throttle::builder().clock(clock.clone()).window(max).grace(max).probe_every(max);
        LoadShedder::builder().clock(clock.clone()).cool_off(max).update_interval(max);
        Hedge::builder().clock(clock.clone()).after(max).throttled_pause(max);
        Hedge::builder().clock(clock.clone()).quantile(0.9).min_delay(max);
        RateLimiter::builder().quota(quota).clock(clock.clone()).max_wait(max).max_waiting(usize::MAX);
        RateLimiter::builder().quota(quota).clock(clock.clone()).max_debt(1 << 40).pause_on_hint(max);
        KeyedRateLimiter::<u8>::builder().quota(quota).clock(clock.clone()).max_wait(max).max_debt(1 << 40);
        Stale::<u8>::builder().clock(clock.clone()).max_age(max);
        Coalesce::<u8, u8, u8>::builder().clock(clock.clone());
        Endpoints::<u8>::builder().node("a", 1).clock(clock.clone()).decay(max).max_ejection(max).base_ejection(max);
        Endpoints::<u8>::builder().node("a", 1).clock(clock.clone()).slow_start(max).failure_penalty(max);
        Standard::builder().clock(clock.clone()).total_timeout(max).without_attempt_timeout();
        SharedRateLimiter::builder().store(store.clone()).key("k").quota(quota).clock(clock.clone()).max_wait(max);
        SharedBulkhead::builder().store(store.clone()).key("k").instance("i").max_concurrent(1 << 40)
            .max_waiting(usize::MAX).max_wait(max).clock(clock.clone());
        SharedKeyedRateLimiter::<u8>::builder().store(store.clone()).key_by(|key| key.to_string()).quota(quota)
            .clock(clock.clone()).max_wait(max).max_waiting(usize::MAX).max_keys(usize::MAX);
        Keyed::<u8, Option<CircuitBreaker>>::builder(|_| None).max_keys(usize::MAX);
        CircuitVotes::builder().store(store.clone()).key("k").breaker(breaker.clone().build().unwrap())
            .clock(clock.clone());
        DeadLetterQueue::<u8>::builder().clock(clock.clone()).max_replays(u32::MAX).max_error_bytes(usize::MAX);
    }
    is_readable(&Timeout::builder().after(max).clock(clock.clone()));
    is_readable(
        &UserFairness::builder()
            .clock(clock.clone())
            .half_life(max)
            .build(),
    );
    is_readable(&store);
    is_readable(&CallOptions::new().deadline(max));
    let config = backstop::standard::Config::new();
    is_readable(&config.total_timeout(max).attempt_timeout(max));
    is_readable(&ConfigErrors::of(&clock));
}

/// An error that contains two durations.
struct ConfigErrors(String);

impl ConfigErrors {
    fn of(clock: &ManualClock) -> Self {
        let standard = Standard::builder().attempt_timeout(Duration::MAX);
        let error = standard.clock(clock.clone()).build().unwrap_err();
        Self(format!("{error} {error:?}"))
    }
}

impl Debug for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[test]
fn builders_of_algorithms_print_without_sentinels() {
    let max = Duration::MAX;
    let calibration = Calibration::every(max);
    is_readable(&calibration);
    is_readable(&Aimd::builder().timeout(max));
    is_readable(&Aimd::builder().timeout(max).build());
    is_readable(&Gradient::builder().update_interval(max));
    is_readable(&Gradient::builder().calibration(calibration).build());
    is_readable(&Gradient2::builder());
    is_readable(
        &Vegas::builder()
            .max_baseline_age(max)
            .calibration(calibration),
    );
    is_readable(&Vegas::builder().max_baseline_age(max).build());
    is_readable(
        &Windowed::builder()
            .window_between(max, max)
            .min_latency(max),
    );
    let correlated = Correlated::builder().baseline(max);
    is_readable(
        &correlated
            .max_limit_stabilization(max)
            .correlation_window(usize::MAX),
    );
    is_readable(&Codel::builder().target(max).interval(max));
    is_readable(&CubicRate::builder().window(max));
    is_readable(&RetryBudget::percentage().window(max));
    is_readable(&RetryBudget::tokens());
    is_readable(&RetryBudget::grpc(10, 0.1));
    is_readable(&RetryBudget::in_flight());
    is_readable(&Backoff::exponential(max).max(max));
    is_readable(&UserFairness::builder().half_life(max).max_users(usize::MAX));
}

#[cfg(feature = "chaos")]
#[test]
fn builders_of_faults_print_without_sentinels() {
    is_readable(&backstop::Chaos::builder().latency(0.1, Duration::MAX));
}

#[cfg(feature = "dead-letter-file")]
#[test]
fn builders_of_files_print_without_sentinels() {
    let builder = backstop::dead_letter::FileSink::builder("unused");
    let builder = builder.max_age(Duration::MAX).max_bytes(u64::MAX);
    is_readable(&builder.max_letters(u64::MAX).max_waiting(usize::MAX));
}
