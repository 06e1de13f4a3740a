//! On a clock that is set back by an hour nothing bursts and nothing freezes.

use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, State, Trip};
use backstop::policy::Health;
use backstop::{Backoff, CircuitBreaker, Clock, Jitter};

use super::{Skewed, secs};

const HOUR: Duration = secs(3600);

/// A breaker whose breaks are 5 s.
fn builder(clock: &Skewed) -> CircuitBreakerBuilder {
    clock.set(HOUR);
    CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .seed(7)
        .clock(clock.clone())
}

#[test]
fn a_break_begins_anew() {
    let clock = Skewed::default();
    let breaker = builder(&clock).build().unwrap();
    breaker.trip();
    clock.set(secs(1));
    for left in [5, 4, 3, 2, 1] {
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(secs(left)));
        clock.advance(secs(1));
    }
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn a_ramp_up_begins_anew() {
    let clock = Skewed::default();
    let breaker = builder(&clock).ramp_up(secs(10)).build().unwrap();
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    clock.advance(secs(9));
    clock.set(secs(1));
    let admitted = || (0..1000).filter(|_| breaker.try_acquire().is_ok()).count();
    let first = admitted();
    assert!((60..140).contains(&first), "a tenth, not {first}");
    clock.advance(secs(5));
    let half_way = admitted();
    assert!((500..600).contains(&half_way), "{half_way}");
    clock.advance(secs(5));
    assert_eq!(admitted(), 1000);
}

#[test]
fn readings_that_come_late_do_not_begin_a_ramp_up_anew() {
    let clock = Skewed::default();
    let breaker = builder(&clock).ramp_up(secs(10)).build().unwrap();
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    clock.set(HOUR - secs(50));
    let rejected = (0..100).find_map(|_| breaker.try_acquire().err()).unwrap();
    assert_eq!(rejected.retry_after(), Some(secs(60)));
    let admitted = (0..1000).filter(|_| breaker.try_acquire().is_ok()).count();
    assert!((60..140).contains(&admitted), "a tenth, not {admitted}");
    clock.set(HOUR + secs(10));
    assert!((0..100).all(|_| breaker.try_acquire().is_ok()));
}

#[test]
fn a_probe_that_hangs_loses_its_place_and_says_nothing() {
    let clock = Skewed::default();
    let breaker = builder(&clock).probe_lease(secs(2)).build().unwrap();
    breaker.half_open();
    let hung = breaker.try_acquire().unwrap();
    clock.set(secs(1));
    let next = breaker.try_acquire().expect("the place is free");
    assert!(breaker.try_acquire().is_err(), "it is one place");
    // Nobody knows for how long it had it, so it counts neither as lost nor afterwards.
    hung.failure();
    assert_eq!(breaker.state(), State::HalfOpen);
    next.success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_probe_that_ends_meanwhile_counts() {
    let clock = Skewed::default();
    for good in [true, false] {
        let breaker = builder(&clock).probe_lease(secs(2)).build().unwrap();
        breaker.half_open();
        let probe = breaker.try_acquire().unwrap();
        clock.set(secs(1));
        if good {
            probe.success();
            assert_eq!(breaker.state(), State::Closed);
        } else {
            probe.failure();
            assert_eq!(breaker.state(), State::Open);
        }
    }
}

#[test]
fn a_lease_without_an_end_has_none() {
    let clock = Skewed::default();
    let breaker = builder(&clock)
        .probe_lease(Duration::MAX)
        .lost_probes_as(Health::Neutral)
        .build()
        .unwrap();
    breaker.half_open();
    let _probe = breaker.try_acquire().unwrap();
    clock.set(secs(1));
    assert!(breaker.try_acquire().is_err());
}

#[test]
fn the_half_open_time_ends() {
    let clock = Skewed::default();
    let breaker = builder(&clock)
        .probe_lease(Duration::MAX)
        .max_half_open(secs(2))
        .build()
        .unwrap();
    breaker.half_open();
    let _hung = breaker.try_acquire().unwrap();
    let mut transitions = breaker.subscribe();
    clock.set(secs(1));
    // It has no end that could be told, so the break begins now.
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(rejected.retry_after(), Some(secs(5)));
    assert_eq!(transitions.try_next().unwrap().at, clock.now());
}

#[test]
fn an_average_begins_anew() {
    // Set back to before the circuit closed, and to after it.
    for closed_at in [HOUR, Duration::ZERO] {
        let clock = Skewed::default();
        let average = Trip::success_average(0.5).within(secs(10)).min_calls(1);
        clock.set(closed_at);
        let breaker = CircuitBreaker::builder()
            .trip_on(average)
            .clock(clock.clone())
            .build()
            .unwrap();
        clock.set(HOUR);
        for _ in 0..100 {
            clock.advance(secs(1));
            breaker.try_acquire().unwrap().success();
        }
        clock.set(secs(1));
        let mut failures = 0;
        while breaker.state() == State::Closed && failures < 100 {
            breaker.try_acquire().unwrap().failure();
            failures += 1;
            clock.advance(secs(1));
        }
        // The first at once, the last when a window has passed.
        assert_eq!(failures, 11);
    }
}

#[test]
fn readings_that_come_late_do_not_begin_an_average_anew() {
    let clock = Skewed::default();
    let average = Trip::success_average(0.5).within(secs(10)).min_calls(1);
    clock.set(HOUR);
    let breaker = CircuitBreaker::builder()
        .trip_on(average)
        .clock(clock.clone())
        .build()
        .unwrap();
    for _ in 0..100 {
        clock.advance(secs(1));
        breaker.try_acquire().unwrap().success();
    }
    clock.set(HOUR + secs(40));
    for _ in 0..100 {
        breaker.try_acquire().unwrap().failure();
    }
    assert_eq!(breaker.state(), State::Closed, "they weigh nothing");
    clock.set(HOUR + secs(101));
    breaker.try_acquire().unwrap().failure();
    assert_eq!(breaker.state(), State::Closed, "a tenth of the window");
}
