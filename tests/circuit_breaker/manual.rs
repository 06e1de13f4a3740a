use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{ManualClock, Reason};

use super::{builder, feed, secs};

#[test]
fn manual_changes_enter_their_states() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    breaker.disable();
    feed(&breaker, &clock, "xxx");
    assert_eq!(
        (breaker.state(), breaker.snapshot().consecutive_failures),
        (State::Disabled, 0)
    );
    breaker.metrics_only();
    feed(&breaker, &clock, "xxx");
    assert_eq!(breaker.state(), State::MetricsOnly);
    assert_eq!(breaker.snapshot().consecutive_failures, 3);
    breaker.close();
    assert_eq!(breaker.snapshot().consecutive_failures, 0);
    breaker.trip_for(secs(60));
    assert_eq!(
        breaker.try_acquire().unwrap_err().retry_after(),
        Some(secs(60))
    );
    breaker.trip();
    assert_eq!(
        (
            breaker.snapshot().retry_after,
            breaker.snapshot().consecutive_trips
        ),
        (Some(secs(5)), 2)
    );
    breaker.half_open();
    assert!(breaker.try_acquire().unwrap().is_probe());
    breaker.reset();
    assert_eq!(
        (breaker.state(), breaker.snapshot().consecutive_trips),
        (State::Closed, 0)
    );
    breaker.trip_for(Duration::MAX);
    clock.advance(secs(1 << 40));
    assert!(breaker.try_acquire().is_err());
}

#[test]
fn tripping_an_open_circuit_keeps_the_results_of_its_probes() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(2))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, ".x");
    clock.advance(secs(5));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.snapshot().calls, 1, "that of the probe");
    breaker.trip();
    assert_eq!(breaker.snapshot().calls, 1);
    breaker.trip_for(secs(1));
    assert_eq!(breaker.snapshot().calls, 1);
}

#[test]
fn isolations_nest_and_keep_the_underlying_state() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(3))
        .build()
        .unwrap();
    feed(&breaker, &clock, "xx");
    let before = breaker.try_acquire().unwrap();
    let (first, second) = (breaker.isolate(), breaker.isolate());
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(
        (rejected.reason(), rejected.retry_after()),
        (Reason::Isolated, None)
    );
    drop(first);
    assert_eq!(breaker.state(), State::Isolated);
    assert_eq!(breaker.snapshot().underlying, State::Closed);
    before.failure();
    drop(second);
    assert_eq!(breaker.snapshot().consecutive_failures, 2);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);

    // A half-open circuit restarts its probes after an isolation.
    clock.advance(secs(5));
    let probe = breaker.try_acquire().unwrap();
    drop(breaker.isolate());
    assert_eq!(breaker.peek(), State::HalfOpen);
    probe.failure();
    assert_eq!(breaker.state(), State::Open);
    feed(&breaker, &clock, "..");
    assert_eq!(breaker.state(), State::Closed);
}
