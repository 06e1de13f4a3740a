//! Zero, not-a-number, infinity and the largest numbers in every setting of every builder: each is
//! rejected with an error that names the setting, or has a defined effect. Nothing panics, overflows
//! or hangs.

mod values;

use std::cell::Cell;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::policy::ErrorClass;
use backstop::retry::RetryBuilder;
use backstop::throttle::ThrottleBuilder;
use backstop::{
    Backoff, CallOptions, Classify, Clock, ConfigError, HintRule, Instant, Jitter, ManualClock,
    Pipeline, Policy, Priority, Reason, Rejected, Retry, RetryBudget, Throttle, Timeout, Verdict,
    deadline,
};

use values::{COUNTS, NUMBERS, TIMES, check};

/// A clock at its beginning, and one that is about to end.
fn clocks() -> [ManualClock; 2] {
    let old = ManualClock::new();
    old.advance(Duration::from_nanos(u64::MAX - 1000));
    [ManualClock::new(), old]
}

/// Whether a future ends by the end of time.
fn ends(clock: &ManualClock, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    (0..2).any(|_| {
        let ready = future.as_mut().poll(&mut cx).is_ready();
        clock.advance(Duration::MAX);
        ready
    })
}

/// Calls that fail twice, in every way and under every deadline, at both ends of time.
fn try_out(retry: RetryBuilder) {
    let hinted = TIMES.map(Verdict::throttled).into_iter();
    let failures = hinted.chain([Verdict::transient(), Verdict::timed_out()]);
    for (failure, within) in failures.flat_map(|f| TIMES.map(|time| (f, time))) {
        for clock in clocks() {
            let retry = retry.clone().clock(clock.clone()).build().unwrap();
            let stack = Pipeline::new((retry, Classify::errors(|verdict: &Verdict| *verdict)));
            let tries = Cell::new(0);
            let call = stack.with(CallOptions::new().deadline(within));
            let result = clock.block_on(call.call(|| {
                tries.set(tries.get() + 1);
                ready(if tries.get() > 2 {
                    Ok(())
                } else {
                    Err(failure)
                })
            }));
            assert_eq!(result.is_ok(), tries.get() > 2);
            assert_eq!(clock.sleepers(), 0);
        }
    }
}

#[test]
fn retry() {
    let build = |n| {
        Retry::builder()
            .max_attempts(n)
            .clock(ManualClock::new())
            .build()
    };
    check("max_attempts", &COUNTS, |n| n > 0, build, drop);
    for attempts in COUNTS.into_iter().filter(|n| *n > 0) {
        try_out(Retry::builder().max_attempts(attempts));
    }
    for time in TIMES {
        try_out(Retry::builder().max_elapsed(time));
        try_out(Retry::builder().hint(HintRule::Within(time)));
        try_out(Retry::builder().hint(HintRule::UpTo(time)));
        try_out(Retry::builder().delay_with(move |_| time));
    }
    for seed in [0, 1, u64::MAX] {
        try_out(Retry::builder().seed(seed));
    }
}

// ===== Backoff =====

fn build_with(backoff: &Backoff) -> Result<Retry, ConfigError> {
    let builder = || Retry::builder().clock(ManualClock::new());
    let throttled = builder().throttled_backoff(backoff.clone()).build();
    let built = builder().backoff(backoff.clone()).build();
    assert_eq!(built.is_ok(), throttled.is_ok());
    built
}

/// No delay of an accepted backoff is longer than `max`, and calls with it end.
fn stays_below(backoff: &Backoff, max: Duration) {
    let seeded = (0..5).flat_map(|seed| backoff.delays(seed).take(70));
    let numbered = COUNTS.map(|n| backoff.delay(n));
    for delay in seeded.chain(numbered) {
        assert!(delay <= max, "{backoff:?}: {delay:?}");
    }
}

#[test]
fn backoff_times() {
    for initial in TIMES {
        let shapes = [
            (Backoff::fixed(initial), initial.is_zero()),
            (Backoff::linear(initial, initial), initial.is_zero()),
            (Backoff::linear(TIMES[2], initial), false),
            (Backoff::exponential(initial), initial.is_zero()),
            (
                Backoff::exponential(initial).factor(1e30),
                initial.is_zero(),
            ),
            (Backoff::fibonacci(initial), initial.is_zero()),
            (Backoff::custom(move |_| initial), false),
        ];
        for (shape, refused) in shapes {
            check(
                "backoff",
                &TIMES,
                |max| !refused && !max.is_zero(),
                |max| {
                    let backoff = shape.clone().max(max);
                    build_with(&backoff).map(|_| (backoff, max))
                },
                |(backoff, max)| {
                    stays_below(&backoff, max);
                    stays_below(&backoff.jitter(Jitter::None), max);
                },
            );
        }
        if !initial.is_zero() {
            try_out(Retry::builder().backoff(Backoff::fixed(initial).max(initial)));
        }
    }
}

#[test]
fn backoff_factors() {
    let exponential = |factor| Backoff::exponential(TIMES[2]).factor(factor);
    let build = |factor| build_with(&exponential(factor)).map(|_| exponential(factor));
    check(
        "backoff",
        &NUMBERS,
        |factor| factor >= 1.0 && factor.is_finite(),
        build,
        |backoff| {
            stays_below(&backoff, Duration::from_secs(20));
            let endless = backoff.max(Duration::MAX).jitter(Jitter::None);
            try_out(Retry::builder().backoff(endless));
        },
    );
    // A factor that nothing is multiplied with is a mistake too.
    assert!(build_with(&Backoff::fixed(TIMES[2]).factor(2.0)).is_err());
}

#[test]
fn jitters() {
    let around = |fraction| Backoff::fixed(TIMES[2]).jitter(Jitter::PlusMinus(fraction));
    let build = |fraction| build_with(&around(fraction)).map(|_| around(fraction));
    let is_fraction = |fraction| (0.0..=1.0).contains(&fraction);
    check("backoff", &NUMBERS, is_fraction, build, |backoff| {
        stays_below(&backoff, Duration::from_secs(2));
    });

    let jitters = [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::PlusMinus(1.0),
        Jitter::Decorrelated,
        Jitter::DecorrelatedV2,
    ];
    for jitter in jitters {
        for (time, factor) in TIMES
            .into_iter()
            .flat_map(|t| [1.0, 2.0, f64::MAX].map(|f| (t, f)))
        {
            let backoff = Backoff::exponential(time).factor(factor).jitter(jitter);
            stays_below(&backoff.clone().max(time), time);
            stays_below(&backoff.max(Duration::MAX), Duration::MAX);
        }
    }
    assert!(build_with(&Backoff::fixed(TIMES[2]).jitter(Jitter::Decorrelated)).is_err());
}

// ===== Timeout, deadlines and the clock =====

#[test]
fn timeouts() {
    let missing = Timeout::builder().clock(ManualClock::new()).build();
    assert_eq!(missing.unwrap_err().setting(), "after");

    for limit in TIMES {
        for clock in clocks() {
            let builder = || Timeout::builder().clock(clock.clone());
            let fixed = builder().after(limit).build().unwrap();
            let computed = builder().after_with(move |_| limit).build().unwrap();
            let ready = |policy: &Timeout| clock.block_on(policy.call(|| ready(Ok::<_, ()>(1))));
            // Also with no time at all.
            assert_eq!((ready(&fixed), ready(&computed)), (Ok(1), Ok(1)));

            let fires = clock.now() + limit < Instant::FAR_FUTURE;
            let call = (fixed.clone(), fixed);
            let call = call.call(pending::<Result<(), ()>>);
            assert_eq!(ends(&clock, call), fires, "{limit:?}");
        }
        for clock in clocks() {
            let computed = Timeout::builder().after_with(move |_| limit);
            let computed = computed.clock(clock.clone()).build().unwrap();
            let fires = clock.now() + limit < Instant::FAR_FUTURE;
            assert_eq!(
                ends(&clock, computed.call(pending::<Result<(), ()>>)),
                fires,
                "{limit:?}"
            );
        }
    }
}

#[test]
fn deadlines_and_options_of_a_call() {
    for (within, clock) in TIMES
        .into_iter()
        .flat_map(|time| clocks().map(|clock| (time, clock)))
    {
        let start = clock.now();
        let timeout = Timeout::builder().after(Duration::MAX).clock(clock.clone());
        let pipeline = Pipeline::new(timeout.build().unwrap());
        let has = match start + within {
            Instant::FAR_FUTURE => Ok(None),
            // Nothing is started when there is no time for it.
            at if at == start => Err(Reason::DeadlineTooClose),
            at => Ok(Some(at.saturating_duration_since(start))),
        };
        let mut options = CallOptions::new().deadline(within);
        for count in COUNTS {
            options = options
                .cost(count)
                .priority(Priority::HIGHEST.level(u8::MAX));
            let left = pipeline.with(options);
            let left = left.call_with(|attempt| {
                assert_eq!(attempt.cost(), count);
                ready(Ok::<_, ()>(attempt.remaining()))
            });
            assert_eq!(clock.block_on(left).map_err(|e| e.reason().unwrap()), has);
        }
        let left = pipeline.call_with(|attempt| ready(Ok::<_, ()>(attempt.remaining())));
        let left = clock.block_on(deadline::scope_on(clock.clone(), within, left));
        assert_eq!(left.map_err(|e| e.reason().unwrap()), has);
    }
}

#[test]
fn clocks_and_instants() {
    for (time, clock) in TIMES
        .into_iter()
        .flat_map(|time| clocks().map(|clock| (time, clock)))
    {
        let at = clock.now() + time;
        assert!(at >= clock.now());
        assert_eq!(Instant::FAR_FUTURE + time, Instant::FAR_FUTURE);
        assert_eq!(
            clock.now().saturating_duration_since(at + time),
            Duration::ZERO
        );
        let never = at == Instant::FAR_FUTURE;
        assert_eq!(ends(&clock, clock.sleep(time)), !never, "{time:?}");
        assert_eq!(clock.sleepers(), 0);
    }
}

#[test]
fn rejections() {
    for time in TIMES {
        let rejected = Rejected::new("limiter", Reason::RateLimited).with_retry_after(time);
        match rejected.retry_after() {
            None => assert!(time >= Duration::from_nanos(u64::MAX)),
            Some(told) if time < Duration::from_secs(18 * 365 * 86_400) => assert_eq!(told, time),
            // Rounded up, by less than a unit.
            Some(told) => {
                assert!(time < Duration::from_nanos(u64::MAX));
                assert!(told >= time && told - time < Duration::from_nanos(1024));
            }
        }
        assert!(
            rejected
                .to_string()
                .starts_with("rejected by limiter: rate limited")
        );
    }
}

// ===== Budgets =====

/// A call with more retries than there are, and a snapshot of what is left.
fn spend(budget: RetryBudget) {
    for _ in 0..3 {
        let mut call = budget.begin();
        for class in [
            ErrorClass::Transient,
            ErrorClass::Throttled,
            ErrorClass::Timeout,
        ] {
            call.failure();
            let before = budget.snapshot().available;
            let granted = call.withdraw(class).is_some();
            let after = budget.snapshot().available;
            assert!(
                before >= 0.0 && after >= 0.0 && after <= before,
                "{before} {after}"
            );
            assert!(
                granted || before < f64::from(u32::MAX),
                "{before} left and refused"
            );
        }
        call.success();
    }
    try_out(Retry::builder().budget(budget));
}

#[test]
fn percentage_budgets() {
    let is_ratio = |ratio| (0.0..=1000.0).contains(&ratio);
    for clock in clocks() {
        let budget = || RetryBudget::percentage().clock(clock.clone());
        check(
            "ratio",
            &NUMBERS,
            is_ratio,
            |n| budget().ratio(n).build(),
            spend,
        );
        check(
            "floor",
            &COUNTS,
            |_| true,
            |n| budget().floor(n).build(),
            spend,
        );
        let is_window = |window| (TIMES[2]..=TIMES[3]).contains(&window);
        check(
            "window",
            &TIMES,
            is_window,
            |time| budget().window(time).build(),
            spend,
        );
        let largest = budget().ratio(1000.0).floor(u32::MAX).window(TIMES[3]);
        spend(largest.build().unwrap());
    }
}

#[test]
fn token_budgets() {
    let budget = RetryBudget::tokens;
    check(
        "capacity",
        &COUNTS,
        |_| true,
        |n| budget().capacity(n).build(),
        spend,
    );
    check(
        "initial",
        &COUNTS,
        |_| true,
        |n| budget().initial(n).build(),
        spend,
    );
    for class in [
        ErrorClass::Transient,
        ErrorClass::Throttled,
        ErrorClass::Timeout,
    ] {
        check(
            "cost",
            &COUNTS,
            |_| true,
            |n| budget().cost(class, n).build(),
            spend,
        );
        let largest = budget()
            .capacity(u32::MAX)
            .cost(class, u32::MAX)
            .reward(f64::MAX);
        spend(largest.build().unwrap());
    }
    let is_reward = |reward: f64| reward.is_finite() && reward >= 0.0;
    check(
        "reward",
        &NUMBERS,
        is_reward,
        |n| budget().reward(n).build(),
        spend,
    );
}

#[test]
fn grpc_budgets() {
    let is_max = |max| (1..=1000).contains(&max);
    check(
        "max_tokens",
        &COUNTS,
        is_max,
        |n| RetryBudget::grpc(n, 0.1).build(),
        spend,
    );
    let is_ratio = |ratio: f64| ratio.is_finite() && ratio >= 0.001;
    check(
        "ratio",
        &NUMBERS,
        is_ratio,
        |n| RetryBudget::grpc(10, n).build(),
        spend,
    );
}

#[test]
fn in_flight_budgets() {
    let budget = RetryBudget::in_flight;
    let is_ratio = |ratio| (0.0..=1000.0).contains(&ratio);
    check(
        "ratio",
        &NUMBERS,
        is_ratio,
        |n| budget().ratio(n).build(),
        spend,
    );
    check(
        "floor",
        &COUNTS,
        |_| true,
        |n| budget().floor(n).build(),
        spend,
    );
    spend(budget().ratio(1000.0).floor(u32::MAX).build().unwrap());
}

// ===== Throttle =====

/// A throttle at both ends of time: many calls that end in every way, and looks in between.
fn drive(throttle: ThrottleBuilder) {
    for clock in clocks() {
        let throttle = throttle.clone().seed(1).clock(clock.clone());
        let throttle = throttle.build().unwrap();
        for time in TIMES {
            for verdict in [Verdict::failure(), Verdict::success(), Verdict::ignore()] {
                for _ in 0..4 {
                    throttle.record(verdict);
                    let open = throttle.try_acquire();
                    let seen = throttle.snapshot();
                    assert!(seen.rejection_probability >= 0.0, "{seen:?}");
                    assert!(seen.rejection_probability <= seen.max_rejection, "{seen:?}");
                    assert!(seen.requests_per_second.is_finite(), "{seen:?}");
                    let parts = seen.accepts + seen.failures + seen.in_flight;
                    assert_eq!(seen.requests, parts, "{seen:?}");
                    if let Ok(permit) = open {
                        permit.record(verdict);
                    }
                }
            }
            clock.advance(time);
        }
    }
}

#[test]
fn throttles() {
    let throttle = || Throttle::builder().clock(ManualClock::new());
    /// Builds it to see whether it can be, and hands on the builder.
    fn built(builder: ThrottleBuilder) -> Result<ThrottleBuilder, ConfigError> {
        builder.clone().build().map(|_| builder)
    }
    let is_threshold = |share: f64| share > 0.0 && share <= 1.0;
    check(
        "success_threshold",
        &NUMBERS,
        is_threshold,
        |n| built(throttle().success_threshold(n)),
        drive,
    );
    check(
        "max_rejection",
        &NUMBERS,
        |n| (0.0..=1.0).contains(&n),
        |n| built(throttle().max_rejection(n)),
        drive,
    );
    check(
        "aggression",
        &NUMBERS,
        |n| n >= 1.0 && n.is_finite(),
        |n| built(throttle().aggression(n)),
        drive,
    );
    check(
        "min_calls_per_second",
        &NUMBERS,
        |n| n >= 0.0 && n.is_finite(),
        |n| built(throttle().min_calls_per_second(n)),
        drive,
    );
    check(
        "min_calls",
        &COUNTS,
        |n| n > 0,
        |n| built(throttle().min_calls(n)),
        drive,
    );
    check(
        "slices",
        &COUNTS,
        |n| (1..=1024).contains(&n),
        |n| built(throttle().slices(n)),
        drive,
    );
    for slices in [1, 20, 1024] {
        check(
            "window",
            &TIMES,
            |time| time >= Duration::from_micros(100) * slices,
            |time| built(throttle().slices(slices).window(time)),
            drive,
        );
    }
    check(
        "probe_every",
        &TIMES,
        |time| !time.is_zero(),
        |time| built(throttle().probe_every(time)),
        drive,
    );
    for time in TIMES {
        drive(throttle().grace(time));
        drive(throttle().grace(time).window(Duration::MAX));
        drive(
            throttle()
                .grace(time)
                .window(Duration::from_micros(100))
                .slices(1),
        );
    }
    let harshest = throttle()
        .success_threshold(f64::MIN_POSITIVE)
        .aggression(f64::MAX)
        .max_rejection(1.0)
        .min_calls(1);
    drive(harshest.clone());
    drive(harshest.success_threshold(1.0).count_rejected(true));
}
