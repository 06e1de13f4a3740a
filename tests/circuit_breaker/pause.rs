use std::time::Duration;

use backstop::circuit_breaker::{Cause, HalfOpen, State, Trip};
use backstop::{CircuitBreaker, Clock, ManualClock};

use super::{builder, feed, secs};

#[test]
fn of_several_pauses_the_one_that_ends_last_applies() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let mut transitions = breaker.subscribe();
    let left = || breaker.try_acquire().unwrap_err().retry_after();
    breaker.pause_for(secs(10));
    assert_eq!(left(), Some(secs(10)));
    breaker.pause_for(secs(3));
    assert_eq!(left(), Some(secs(10)));
    breaker.pause_until(clock.now() + secs(30));
    assert_eq!(left(), Some(secs(30)));
    clock.advance(secs(20));
    breaker.pause_for(secs(10));
    assert_eq!(left(), Some(secs(10)));

    let change = transitions.try_next().unwrap();
    assert_eq!((change.to, change.cause), (State::Open, Cause::Paused));
    assert_eq!(transitions.try_next(), None, "the pause was only extended");
    clock.advance(secs(10));
    assert!(breaker.try_acquire().unwrap().is_probe());
}

#[test]
fn of_a_pause_and_a_break_the_one_that_ends_last_applies() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    breaker.pause_for(secs(1));
    assert_eq!(breaker.snapshot().retry_after, Some(secs(5)));
    breaker.pause_for(secs(9));
    assert_eq!(breaker.snapshot().retry_after, Some(secs(9)));
    breaker.pause_for(Duration::MAX);
    breaker.pause_for(secs(9));
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), None);
}

#[test]
fn a_pause_does_not_count_as_a_failure() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    breaker.pause_for(secs(1));
    assert_eq!(breaker.snapshot().consecutive_trips, 0);
    // A pause that has already ended does nothing.
    breaker.reset();
    breaker.pause_until(clock.now());
    assert_eq!(breaker.state(), State::Closed);
    // A half-open circuit restarts its probes after a pause.
    breaker.half_open();
    let probe = breaker.try_acquire().unwrap();
    breaker.pause_for(secs(1));
    probe.success();
    assert_eq!(breaker.state(), State::Open);
    clock.advance(secs(1));
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn disabled_and_metrics_only_circuits_are_not_paused() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    for set in [CircuitBreaker::disable, CircuitBreaker::metrics_only] {
        set(&breaker);
        breaker.pause_for(secs(10));
        assert!(breaker.try_acquire().is_ok());
    }
}
