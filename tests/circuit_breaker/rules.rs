use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use backstop::circuit_breaker::{Cause, HalfOpen, State, Trip};
use backstop::policy::Health;
use backstop::{Backoff, CircuitBreaker, Jitter, ManualClock, Verdict};

use super::{builder, feed, ms, secs};

/// Feeds `calls` and says which of them opened the circuit, from 1.
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
fn each_rule_opens_when_it_says() {
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
fn a_success_can_complete_the_minimum_unless_the_builder_says_otherwise() {
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
fn of_several_rules_the_first_that_holds_opens() {
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
fn breaks_grow_until_the_circuit_closes() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .break_for(
            Backoff::exponential(secs(1))
                .max(secs(3))
                .jitter(Jitter::None),
        )
        .build()
        .unwrap();
    for length in [1, 2, 3, 3] {
        feed(&breaker, &clock, "x");
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(secs(length)));
        // Exactly: a nanosecond before it is over, and then.
        clock.advance(secs(length) - Duration::from_nanos(1));
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(Duration::from_nanos(1)));
        clock.advance(Duration::from_nanos(1));
    }
    feed(&breaker, &clock, ".x");
    assert_eq!(breaker.snapshot().retry_after, Some(secs(1)));
}

#[test]
fn a_closure_may_give_the_length_of_the_break() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .trip_on(Trip::failure_rate(0.5).of_last(4))
        .half_open(HalfOpen::successes(3).of(4))
        .break_with(move |trips, rate| {
            log.lock().unwrap().push((trips, rate));
            secs(u64::from(trips))
        })
        .build()
        .unwrap();
    feed(&breaker, &clock, ".x.x");
    clock.advance(secs(1));
    feed(&breaker, &clock, ".xx");
    clock.advance(secs(2));
    feed(&breaker, &clock, "...");
    breaker.trip();
    let third = 2.0 / 3.0;
    assert_eq!(*seen.lock().unwrap(), [(1, 0.5), (2, third), (1, 1.0)]);
}

#[test]
fn a_servers_hint_lengthens_the_break_up_to_a_bound() {
    for (hint, length) in [(1, 5), (60, 60), (4000, 300)] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .build()
            .unwrap();
        let permit = breaker.try_acquire().unwrap();
        permit.record(Verdict::throttled(secs(hint)));
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(secs(length)));
    }
}

#[test]
fn half_open_decides_as_early_as_it_is_certain() {
    let table = [
        (HalfOpen::successes(2).of(3), true, "..", State::Closed),
        (HalfOpen::successes(2).of(3), true, ".x", State::HalfOpen),
        (HalfOpen::successes(2).of(3), true, "xx", State::Open),
        (HalfOpen::successes(2).of(3), false, "..", State::HalfOpen),
        (HalfOpen::successes(2).of(3), false, "..x", State::Closed),
        (HalfOpen::successes(3), true, "..x", State::Open),
        (HalfOpen::failure_rate(0.5).of(4), true, "xx", State::Open),
        (
            HalfOpen::failure_rate(0.5).of(4),
            true,
            "..",
            State::HalfOpen,
        ),
        (
            HalfOpen::failure_rate(0.5).of(4),
            true,
            "...",
            State::Closed,
        ),
        (
            HalfOpen::failure_rate(0.5).of(4),
            false,
            "...",
            State::HalfOpen,
        ),
        (
            HalfOpen::failure_rate(0.5).of(4),
            false,
            "...x",
            State::Closed,
        ),
        // Slow calls count against the rate of the rule that opens.
        (HalfOpen::successes(2).of(4), true, "ss", State::Open),
        (HalfOpen::successes(2).of(4), true, "s.", State::HalfOpen),
        (HalfOpen::successes(2).of(4), true, "s..", State::HalfOpen),
        (HalfOpen::successes(2).of(4), true, "...", State::Closed),
    ];
    for (rule, early, calls, state) in table {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::slow_rate(0.5).of_last(10))
            .slow_call(secs(1))
            .half_open(rule)
            .decide_early(early)
            .build()
            .unwrap();
        breaker.half_open();
        feed(&breaker, &clock, calls);
        assert_eq!(breaker.state(), state, "{rule:?} {early} {calls}");
    }
}

#[test]
fn no_more_probes_start_than_the_decision_needs() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .half_open(HalfOpen::successes(3).of(4))
        .permitted_calls(2)
        .build()
        .unwrap();
    breaker.half_open();
    let (a, b) = (
        breaker.try_acquire().unwrap(),
        breaker.try_acquire().unwrap(),
    );
    assert!(a.is_probe());
    assert!(breaker.try_acquire().is_err());
    a.success();
    let c = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err());
    b.failure();
    c.success();
    // One result is left to come.
    let d = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err());
    d.success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn half_open_may_have_an_end() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).max_half_open(secs(1)).build().unwrap();
    breaker.half_open();
    feed(&breaker, &clock, ".");
    clock.advance(ms(1500));
    assert_eq!(
        (breaker.state(), breaker.peek()),
        (State::HalfOpen, State::Open)
    );
    // The break began when the time was over, not when somebody noticed.
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(ms(4500)));
}

#[test]
fn a_service_with_few_calls_closes_unless_the_trial_has_an_end() {
    // A call every ten seconds, all of them good, and breaks of five.
    let state_after_an_hour = |breaker: backstop::CircuitBreaker, clock: &ManualClock| {
        breaker.trip();
        for _ in 0..360 {
            clock.advance(secs(10));
            if let Ok(permit) = breaker.try_acquire() {
                permit.success();
            }
        }
        breaker.state()
    };
    let clock = ManualClock::new();
    let by_default = builder(&clock).build().unwrap();
    assert_eq!(state_after_an_hour(by_default, &clock), State::Closed);
    let limited = builder(&clock).max_half_open(secs(5)).build().unwrap();
    assert_ne!(state_after_an_hour(limited, &clock), State::Closed);
}

#[test]
fn the_share_of_calls_grows_after_closing() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .ramp_up(secs(10))
        .half_open(HalfOpen::successes(1))
        .seed(3)
        .build()
        .unwrap();
    breaker.half_open();
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
    let early = breaker.try_acquire();
    for tenths in [1, 4, 7, 9] {
        let admitted = (0..2000).filter(|_| breaker.try_acquire().is_ok()).count();
        let share = 0.1 + 0.09 * f64::from(tenths - 1);
        let expected = 2000.0 * share;
        assert!(
            (admitted as f64 - expected).abs() < 100.0,
            "{admitted} of {expected}"
        );
        clock.advance(secs(if tenths == 7 { 2 } else { 3 }));
    }
    assert!((0..1000).all(|_| breaker.try_acquire().is_ok()));
    drop(early);

    // Failures while it grows count.
    breaker.close();
    let mut refusals = 0;
    while breaker.state() == State::Closed {
        match breaker.try_acquire() {
            Ok(permit) => permit.failure(),
            Err(rejected) => {
                // Every call has a chance, as with a throttle: there is no time to wait for.
                assert_eq!(rejected.retry_after(), None);
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0);
    breaker.reset();
    assert!((0..100).all(|_| breaker.try_acquire().is_ok()));
}

#[test]
fn cancelled_calls_count_as_the_builder_says() {
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
fn averages_follow_finagle() {
    // After a hundred successes it takes 100 ln 2 failures, rounded up, to fall below a half.
    let clock = ManualClock::new();
    let trip = Trip::success_average(0.5).of_last(100).min_calls(1);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &".".repeat(100));
    feed(&breaker, &clock, &"x".repeat(69));
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);

    // By time: nothing before the window has passed, then the weight of a call is that of its time.
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
    assert_eq!(breaker.state(), State::Closed, "exp(-0.6) of it is left");
    clock.advance(secs(1));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open, "exp(-0.7)");
}

#[test]
fn a_custom_rule_opens_over_the_counts_of_its_window() {
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
    // Good calls alone do not call it, and too few calls do not either.
    feed(&breaker, &clock, "..x.s");
    assert_eq!(*seen.lock().unwrap(), [(3, 2), (4, 2), (5, 3)]);
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    let change = transitions.try_next().unwrap();
    assert_eq!(change.cause, Cause::Custom("weighted"));
    assert_eq!(change.to_string(), "closed -> open: weighted, for 5s");
}

#[test]
fn a_half_open_time_may_end_in_closed() {
    for (ends_in, expected) in [(None, State::Open), (Some(State::Closed), State::Closed)] {
        let clock = ManualClock::new();
        let mut settings = builder(&clock).max_half_open(secs(10));
        if let Some(state) = ends_in {
            settings = settings.max_half_open_ends_in(state);
        }
        let breaker = settings.build().unwrap();
        breaker.half_open();
        let _hangs = breaker.try_acquire().unwrap();
        clock.advance(secs(10));
        assert_eq!(breaker.peek(), expected);
        let mut transitions = breaker.subscribe();
        assert_eq!(breaker.try_acquire().is_ok(), expected == State::Closed);
        let change = transitions.try_next().unwrap();
        assert_eq!(
            (change.to, change.cause),
            (expected, Cause::HalfOpenTooLong)
        );
    }
}

#[test]
fn a_growing_break_without_a_cap_of_its_own_grows_to_five_minutes() {
    let clock = ManualClock::new();
    for (backoff, cap) in [
        (Backoff::exponential(secs(10)), secs(300)),
        (Backoff::exponential(secs(10)).max(secs(20)), secs(20)),
        (Backoff::linear(secs(400), secs(1)), secs(400)),
    ] {
        let breaker = builder(&clock)
            .break_for(backoff.jitter(Jitter::None))
            .build()
            .unwrap();
        for _ in 0..10 {
            breaker.trip();
        }
        assert_eq!(breaker.snapshot().retry_after, Some(cap));
    }
}

#[test]
fn a_generation_is_the_number_of_changes_before() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    assert_eq!(breaker.snapshot().generation, 0);
    let mut transitions = breaker.subscribe();
    breaker.trip();
    assert_eq!(breaker.snapshot().generation, 1);
    breaker.close();
    breaker.reset();
    breaker.trip();
    let generations = std::iter::from_fn(|| transitions.try_next()).map(|change| change.generation);
    // A reset of a closed circuit is a change, and no transition.
    assert_eq!(generations.collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn an_average_works_beside_another_rule_over_the_same_window() {
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
