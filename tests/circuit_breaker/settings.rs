use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, ManualClock};

use super::{builder, feed, ms, secs};

#[test]
fn invalid_settings_are_errors() {
    type Set = fn(CircuitBreakerBuilder) -> CircuitBreakerBuilder;
    let table: [(&str, Set); 40] = [
        ("trip_on", |b| b.trip_on(Trip::consecutive(0))),
        ("trip_on", |b| b.trip_on(Trip::consecutive(1).of_last(1))),
        ("trip_on", |b| b.trip_on(Trip::consecutive(1).min_calls(1))),
        ("trip_on", |b| b.trip_on(Trip::failures(0).of_last(1))),
        ("trip_on", |b| b.trip_on(Trip::failures(1))),
        ("trip_on", |b| b.trip_on(Trip::failures(2).of_last(1))),
        ("trip_on", |b| b.trip_on(Trip::failures(1).of_last(0))),
        ("trip_on", |b| {
            b.trip_on(Trip::failures(1).of_last(u32::MAX))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failures(1).of_last(2).min_calls(1))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failures(1).of_last(2).slices(2))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failures(1).of_last(2).from_first_call())
        }),
        ("trip_on", |b| b.trip_on(Trip::failure_rate(0.5))),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(f64::NAN).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(f64::INFINITY).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.0).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(-0.1).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(1.001).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::success_average(0.0).of_last(10))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(11))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(0))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).within(Duration::ZERO))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).within(secs(1)).slices(0))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).within(secs(9)).slices(1025))
        }),
        ("trip_on", |b| {
            b.trip_on(Trip::failure_rate(0.5).within(ms(1)).slices(11))
        }),
        ("trip_on", |b| b.trip_on(Trip::slow_rate(0.5).of_last(10))),
        ("trip_on", |b| {
            (0..33).fold(b, |b, _| b.trip_on(Trip::consecutive(1)))
        }),
        ("slow_call", |b| b.slow_call(Duration::ZERO)),
        ("break_for", |b| b.break_for(Backoff::fixed(Duration::ZERO))),
        ("break_for", |b| {
            b.break_for(Backoff::exponential(secs(1)).factor(f64::NAN))
        }),
        ("half_open", |b| b.half_open(HalfOpen::successes(0))),
        ("half_open", |b| b.half_open(HalfOpen::successes(3).of(2))),
        ("half_open", |b| b.half_open(HalfOpen::failure_rate(0.5))),
        ("half_open", |b| {
            b.half_open(HalfOpen::failure_rate(f64::NAN).of(2))
        }),
        ("permitted_calls", |b| b.permitted_calls(0)),
        ("trip_on", |b| {
            b.trip_on(Trip::failures(1).of_last(5).within(secs(5)))
        }),
        ("trip_on", |b| b.trip_on(Trip::consecutive(5).of_last(5))),
        ("trip_on", |b| b.trip_on(Trip::custom("mine", |_| true))),
        ("break_with", |b| b.break_with(|_, _| secs(1))),
        ("max_half_open_ends_in", |b| {
            b.max_half_open_ends_in(State::Closed)
        }),
        ("max_half_open_ends_in", |b| {
            b.max_half_open(secs(1))
                .max_half_open_ends_in(State::HalfOpen)
        }),
    ];
    let clock = ManualClock::new();
    for (index, (setting, set)) in table.into_iter().enumerate() {
        let error = set(builder(&clock)).build().unwrap_err();
        assert_eq!(error.setting(), setting, "row {index}: {error}");
    }
    assert!(builder(&clock).probe_lease(Duration::ZERO).build().is_err());
    assert!(
        builder(&clock)
            .max_half_open(Duration::ZERO)
            .build()
            .is_err()
    );
}

#[test]
fn extreme_settings_work() {
    type Set = fn(CircuitBreakerBuilder) -> CircuitBreakerBuilder;
    let table: [Set; 9] = [
        |b| {
            b.trip_on(Trip::consecutive(1))
                .break_with(|_, _| Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::failure_rate(1.0).of_last(1))
                .break_with(|_, _| Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::failure_rate(f64::MIN_POSITIVE).of_last(1))
                .max_hint(Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::failures(1).of_last(1 << 20))
                .permitted_calls(u32::MAX)
        },
        |b| {
            b.trip_on(Trip::failures(1).within(Duration::MAX))
                .ramp_up(Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::failures(1).within(ms(1)).slices(10))
                .max_half_open(Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::consecutive(1))
                .slow_call(Duration::MAX)
                .probe_lease(Duration::MAX)
        },
        |b| {
            b.trip_on(Trip::consecutive(1))
                .half_open(HalfOpen::successes(u32::MAX))
        },
        |b| {
            b.trip_on(Trip::consecutive(1))
                .half_open(HalfOpen::failure_rate(1.0).of(u32::MAX))
        },
    ];
    for (index, set) in table.into_iter().enumerate() {
        let clock = ManualClock::new();
        let breaker = set(CircuitBreaker::builder().clock(clock.clone()))
            .build()
            .unwrap();
        feed(&breaker, &clock, "x");
        assert_eq!(breaker.state(), State::Open, "row {index}");
        let _ = breaker.try_acquire().unwrap_err().retry_after();
        for _ in 0..3 {
            clock.advance(Duration::from_secs(1 << 30));
            if let Ok(permit) = breaker.try_acquire() {
                permit.success();
            }
            let _ = (breaker.snapshot(), breaker.peek());
        }
        clock.advance(Duration::MAX);
        let _ = breaker.try_acquire().map(|permit| permit.failure());
        breaker.reset();
        assert!(breaker.try_acquire().is_ok(), "row {index}");
    }
}

#[test]
fn a_break_without_end_has_no_retry_after() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .break_with(|_, _| Duration::MAX)
        .build()
        .unwrap();
    breaker.trip();
    clock.advance(secs(1 << 40));
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), None);
    assert_eq!(breaker.snapshot().retry_after, None);
    assert_eq!(breaker.peek(), State::Open);
    breaker.close();
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn the_defaults_are_as_documented() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .seed(1)
        .build()
        .unwrap();
    assert_eq!(breaker.name(), "circuit_breaker");
    feed(&breaker, &clock, &".x".repeat(9));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
    let mut expected = secs(5);
    for trips in 1..10 {
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.consecutive_trips, trips);
        let length = snapshot.retry_after.unwrap();
        assert!(
            expected / 2 <= length && length <= expected,
            "{length:?} of {expected:?}"
        );
        expected = (expected * 2).min(secs(300));
        clock.advance(length);
        feed(&breaker, &clock, ".");
        assert_eq!(breaker.state(), State::HalfOpen);
        feed(&breaker, &clock, "xx");
        assert_eq!(breaker.state(), State::Open);
    }
    clock.advance(secs(300));
    feed(&breaker, &clock, ".");
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().consecutive_trips, 0);
}

#[test]
fn a_snapshot_with_arbitrary_numbers_restores_a_working_breaker() {
    let clock = ManualClock::new();
    let template = || builder(&clock).trip_on(Trip::failure_rate(0.5).within(secs(10)));
    let mut snapshot = template().build().unwrap().snapshot();
    for numbers in [0, 1, 7, u64::MAX / 2, u64::MAX] {
        // Contradictory: more failures than calls, and more slow failures than either.
        snapshot.calls = numbers;
        snapshot.failures = u64::MAX;
        snapshot.slow = numbers / 2;
        snapshot.slow_failures = u64::MAX;
        snapshot.consecutive_failures = u32::MAX;
        snapshot.consecutive_trips = u32::MAX;
        snapshot.retry_after = Some(Duration::MAX);
        assert_eq!(snapshot.successes(), 0);
        for underlying in [
            State::Closed,
            State::Open,
            State::HalfOpen,
            State::Isolated,
            State::Disabled,
            State::MetricsOnly,
        ] {
            snapshot.underlying = underlying;
            let breaker = template().restore(snapshot).build().unwrap();
            let _ = (breaker.snapshot(), breaker.peek());
            let _ = breaker.try_acquire().map(|permit| permit.failure());
            breaker.trip();
            assert!(breaker.snapshot().consecutive_trips > 0);
            breaker.reset();
            assert!(breaker.try_acquire().is_ok(), "{underlying}");
        }
    }
}

#[test]
fn a_default_breaker_takes_no_more_than_1640_bytes() {
    let build = || CircuitBreaker::builder().clock(ManualClock::new()).build();
    drop(build());
    let mut breaker = None;
    let clock = ManualClock::new();
    let builder = CircuitBreaker::builder().clock(clock);
    let used = allocation_counter::measure(|| breaker = Some(builder.build().unwrap()));
    assert!(used.bytes_current <= 1640, "{used:?}");
    assert!(breaker.is_some());
}

#[test]
fn debug_output_shows_settings_and_no_packed_values() {
    let rule = Trip::failure_rate(0.5).within(secs(30));
    assert_eq!(
        format!("{rule:?}"),
        "Trip { kind: FailureRate(0.5), within: 30s, slices: 10, from_first_call: false, min_calls: 20 }"
    );
    assert_eq!(
        format!("{:?}", Trip::consecutive(5)),
        "Trip { kind: Consecutive(5) }"
    );
    let builder = builder(&ManualClock::new()).trip_on(Trip::consecutive(5));
    assert!(format!("{builder:?}").contains("Consecutive(5)"));
    let breaker = builder.name("github").build().unwrap();
    assert_eq!(
        format!("{breaker:?}"),
        "CircuitBreaker { name: \"github\", state: Closed, .. }"
    );
    assert_eq!(breaker.snapshot().name, "github");
}
