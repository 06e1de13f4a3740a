use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::ManualClock;
use backstop::circuit_breaker::{Cause, State, Trip};
use backstop::policy::Health;

use super::{builder, feed, ms, secs};

#[test]
fn closing_resets_the_success_average() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::success_average(0.8).of_last(10))
        .build()
        .unwrap();
    for _ in 0..4 {
        // One failure after ten successes gives exp(-1/10), which is above 0.8.
        feed(&breaker, &clock, "..........x");
        assert_eq!(breaker.state(), State::Closed);
        feed(&breaker, &clock, "xx");
        assert_eq!(breaker.state(), State::Open);
        breaker.reset();
    }
}

#[test]
fn successes_before_the_window_do_not_dilute_the_failure_rate() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).of_last(10);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &".".repeat(1000));
    feed(&breaker, &clock, "xxxx");
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn fast_calls_before_the_window_do_not_dilute_the_slow_rate() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::slow_rate(0.5).of_last(100))
        .slow_call(secs(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, &".".repeat(100_000));
    feed(&breaker, &clock, &"s".repeat(49));
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "s");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_rate_applies_from_min_calls_before_the_window_is_full() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).of_last(100).min_calls(5);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, "xxxx");
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn thresholds_are_inclusive() {
    let clock = ManualClock::new();
    for trip in [Trip::failures(5).of_last(5), Trip::consecutive(5)] {
        let breaker = builder(&clock).trip_on(trip).build().unwrap();
        feed(&breaker, &clock, "xxxx");
        assert_eq!(breaker.state(), State::Closed);
        feed(&breaker, &clock, "x");
        assert_eq!(breaker.state(), State::Open);
    }
}

#[test]
fn a_rate_applies_before_the_first_window_has_passed() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).within(secs(30)).min_calls(10);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &"x".repeat(10));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn failures_within_one_millisecond_all_count() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    for _ in 0..1000 {
        feed(&breaker, &clock, ".");
        clock.advance(ms(1));
    }
    let mut failures = 0;
    while breaker.state() == State::Closed && failures < 1001 {
        feed(&breaker, &clock, "x");
        clock.advance(Duration::from_nanos(1000));
        failures += 1;
    }
    assert_eq!(failures, 1000);
}

#[test]
fn windows_of_milliseconds_expire() {
    for window in [ms(4), ms(500)] {
        let clock = ManualClock::new();
        let trip = Trip::failure_rate(0.5).within(window).min_calls(3);
        let breaker = builder(&clock).trip_on(trip).build().unwrap();
        feed(&breaker, &clock, "xx");
        clock.advance(window);
        feed(&breaker, &clock, "xx");
        assert_eq!(breaker.state(), State::Closed);
        clock.advance(window / 2);
        feed(&breaker, &clock, "x");
        assert_eq!(breaker.state(), State::Open);
    }
}

/// Feeds `calls` and returns which of them opened the circuit, from 1.
fn opens_at(trip: Trip, calls: &str) -> Option<usize> {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .slow_call(secs(1))
        .trip_on(trip)
        .build()
        .unwrap();
    for (index, call) in calls.chars().enumerate() {
        feed(&breaker, &clock, &call.to_string());
        if breaker.state() == State::Open {
            return Some(index + 1);
        }
    }
    None
}

#[test]
fn each_rule_opens_at_its_threshold() {
    let within = secs(10);
    let table = [
        (Trip::consecutive(3), "xx.xx.xxx", Some(9)),
        (Trip::failures(3).of_last(5), "x.x..x.x.x", Some(10)),
        (Trip::failures(3).of_last(5), "x..x..x..x..x", None),
        (Trip::failures(3).within(within), "x....x....x", Some(11)),
        (
            Trip::failure_rate(0.5).of_last(4).min_calls(4),
            "x.x.",
            Some(4),
        ),
        (Trip::failure_rate(0.5).of_last(4), "...xx", Some(5)),
        (Trip::failure_rate(0.51).of_last(4), "...xx..xx", None),
        (
            Trip::failure_rate(0.5).within(within).min_calls(4),
            "xx..",
            Some(4),
        ),
        (Trip::slow_rate(0.5).of_last(4), "...sS", Some(5)),
        (
            Trip::slow_rate(0.5).within(within).min_calls(2),
            ".s",
            Some(2),
        ),
        (Trip::failure_rate(0.5).of_last(4), "...sS.SS", Some(7)),
    ];
    for (trip, calls, opens) in table {
        assert_eq!(opens_at(trip.clone(), calls), opens, "{trip:?} {calls}");
    }
}

#[test]
fn a_success_can_complete_min_calls_unless_configured_otherwise() {
    for (only, opens) in [(false, State::Open), (true, State::Closed)] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(3))
            .trip_on_failures_only(only)
            .build()
            .unwrap();
        feed(&breaker, &clock, "xx.");
        assert_eq!(breaker.state(), opens);
    }
}

#[test]
fn the_first_rule_that_matches_opens() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(4))
        .trip_on(Trip::consecutive(2))
        .build()
        .unwrap();
    let mut transitions = breaker.subscribe();
    feed(&breaker, &clock, "xx");
    assert_eq!(
        transitions.try_next().unwrap().cause,
        Cause::ConsecutiveFailures
    );
    breaker.reset();
    transitions.try_next();
    feed(&breaker, &clock, "x.x.");
    assert_eq!(transitions.try_next().unwrap().cause, Cause::FailureRate);
}

#[test]
fn cancelled_calls_count_as_configured() {
    for (health, state) in [
        (Health::Neutral, State::Closed),
        (Health::Healthy, State::Closed),
        (Health::Unhealthy, State::Open),
    ] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .cancelled_as(health)
            .build()
            .unwrap();
        drop(breaker.try_acquire());
        assert_eq!(breaker.state(), state);
    }
}

#[test]
fn success_averages_equal_those_of_finagle() {
    // After a hundred successes, 100 ln 2 failures, rounded up, bring the average below a half.
    let clock = ManualClock::new();
    let trip = Trip::success_average(0.5).of_last(100).min_calls(1);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &".".repeat(100));
    feed(&breaker, &clock, &"x".repeat(69));
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);

    // By time: no opening before the window has passed; then calls are weighted by the time between them.
    let trip = Trip::success_average(0.5).within(secs(10)).min_calls(1);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, "xxx");
    clock.advance(secs(9));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Closed);
    clock.advance(secs(30));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
    clock.advance(secs(6));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Closed, "exp(-0.6) is above a half");
    clock.advance(secs(1));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open, "exp(-0.7) is below a half");
}

#[test]
fn a_custom_rule_sees_the_counts_of_its_window() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let weighted = Trip::custom("weighted", move |counts| {
        let weight = 2 * counts.failures + counts.slow;
        log.lock().unwrap().push((counts.calls, weight));
        weight >= 5
    });
    let breaker = builder(&clock)
        .trip_on(weighted.within(secs(30)).min_calls(3))
        .slow_call(secs(1))
        .build()
        .unwrap();
    let mut transitions = breaker.subscribe();
    // Not called for successes alone, nor below min_calls.
    feed(&breaker, &clock, "..x.s");
    assert_eq!(*seen.lock().unwrap(), [(3, 2), (4, 2), (5, 3)]);
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    let change = transitions.try_next().unwrap();
    assert_eq!(change.cause, Cause::Custom("weighted"));
    assert_eq!(change.to_string(), "closed -> open: weighted, for 5s");
}

#[test]
fn a_success_average_and_another_rule_can_share_a_window() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failures(100).of_last(100))
        .trip_on(Trip::success_average(0.5).of_last(100).min_calls(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, &".".repeat(100));
    feed(&breaker, &clock, &"x".repeat(70));
    assert_eq!(breaker.state(), State::Open);
}
