//! What changes and what stays of the breaker when a stack is reconfigured.

use backstop::circuit_breaker::HalfOpen;

use super::*;
use crate::reconfigured::fail_times;

#[test]
fn the_window_of_the_breaker_stays_when_its_settings_change() {
    let clock = ManualClock::new();
    let rate = |rate: f64| {
        let trip = Trip::failure_rate(rate).within(s(30)).min_calls(4);
        CircuitBreaker::builder().trip_on(trip)
    };
    let standard = standard(&clock)
        .without_retry()
        .breaker(rate(1.0))
        .build()
        .unwrap();
    let good = || {
        clock
            .block_on(standard.call(|| async { Ok::<_, &str>(()) }))
            .unwrap()
    };
    good();
    fail_times(&clock, &standard, 3);
    let counts = || {
        let seen = standard.snapshot().breaker.unwrap();
        (seen.state, seen.calls, seen.failures)
    };
    assert_eq!(counts(), (State::Closed, 4, 3));
    // The same rules in a new builder are no change: the window moves on.
    let same = standard.breaker().unwrap();
    standard
        .reconfigure(standard.config().breaker(rate(1.0)).attempt_timeout(s(3)))
        .unwrap();
    same.trip();
    assert_eq!(counts().0, State::Open, "it is the same breaker");
    same.close();
    good();
    fail_times(&clock, &standard, 3);
    standard
        .reconfigure(standard.config().breaker(rate(0.7)))
        .unwrap();
    assert_eq!(counts(), (State::Closed, 4, 3));
    fail(&clock, &standard);
    assert_eq!(counts().0, State::Open, "four of five have failed");
    // A break goes on under other rules, and while the breaker was removed.
    standard
        .reconfigure(standard.config().breaker(rate(0.9)))
        .unwrap();
    assert_eq!(
        fail(&clock, &standard).1.reason(),
        Some(Reason::CircuitOpen)
    );
    standard
        .reconfigure(standard.config().without_breaker())
        .unwrap();
    assert_eq!(fail(&clock, &standard).0, 1);
    standard
        .reconfigure(standard.config().breaker(rate(0.9)))
        .unwrap();
    assert_eq!(
        fail(&clock, &standard).1.reason(),
        Some(Reason::CircuitOpen)
    );
}

#[test]
fn thresholds_change_in_place() {
    let clock = ManualClock::new();
    let rules = |k: u32| {
        let trip = Trip::failures(k).within(s(30));
        CircuitBreaker::builder().trip_on(trip)
    };
    let standard = standard(&clock)
        .without_retry()
        .breaker(rules(10))
        .build()
        .unwrap();
    let breaker = standard.breaker().unwrap();
    let change = |breaker| {
        standard
            .reconfigure(standard.config().breaker(breaker))
            .unwrap()
    };
    let failures = || standard.snapshot().breaker.unwrap().failures;
    fail(&clock, &standard);
    clock.advance(s(20));
    fail(&clock, &standard);
    // Each failure leaves the window when it would have.
    change(rules(4).ramp_up(s(9)));
    assert_eq!(failures(), 2);
    clock.advance(s(11));
    assert_eq!(failures(), 1);
    // A call in flight counts, by the new rules.
    let in_flight = breaker.try_acquire().unwrap();
    change(rules(2));
    in_flight.failure();
    assert_eq!(breaker.state(), State::Open, "{breaker:?}");
    assert_eq!(standard.breaker().unwrap().state(), State::Open);
    breaker.reset();
    // Isolation and subscriptions last.
    let mut transitions = breaker.subscribe();
    let isolation = breaker.isolate();
    change(rules(3).break_for(Backoff::fixed(s(7)).jitter(Jitter::None)));
    assert_eq!(fail(&clock, &standard).1.reason(), Some(Reason::Isolated));
    drop(isolation);
    fail_times(&clock, &standard, 3);
    let mut last = None;
    while let Some(transition) = transitions.try_next() {
        last = Some(transition);
    }
    let last = last.unwrap();
    assert_eq!((last.to, last.break_for), (State::Open, Some(s(7))));
    // Back to rules that were in force before.
    change(rules(10));
    breaker.close();
    fail_times(&clock, &standard, 9);
    assert_eq!(breaker.state(), State::Closed);
    fail(&clock, &standard);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_circuit_that_is_half_open_goes_by_the_new_rules() {
    let clock = ManualClock::new();
    let of = |n| CircuitBreaker::builder().half_open(HalfOpen::successes(n));
    let standard = standard(&clock)
        .without_retry()
        .breaker(of(3))
        .build()
        .unwrap();
    let breaker = standard.breaker().unwrap();
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    standard
        .reconfigure(standard.config().breaker(of(2)))
        .unwrap();
    assert_eq!(breaker.snapshot().probes_free, 1);
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_ramp_up_that_is_switched_off_ends_at_once() {
    let clock = ManualClock::new();
    let slow = |over| {
        CircuitBreaker::builder()
            .ramp_up(over)
            .half_open(HalfOpen::successes(1))
    };
    let standard = standard(&clock)
        .without_retry()
        .breaker(slow(s(1000)))
        .build()
        .unwrap();
    let breaker = standard.breaker().unwrap();
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    standard
        .reconfigure(standard.config().breaker(slow(s(0))))
        .unwrap();
    assert!((0..100).all(|_| breaker.try_acquire().is_ok()));
}

#[test]
fn a_ramp_up_that_is_switched_on_begins_when_the_circuit_closes() {
    let clock = ManualClock::new();
    let rules = || CircuitBreaker::builder().half_open(HalfOpen::successes(1));
    let standard = standard(&clock)
        .without_retry()
        .breaker(rules())
        .build()
        .unwrap();
    let breaker = standard.breaker().unwrap();
    breaker.half_open();
    standard
        .reconfigure(standard.config().breaker(rules().ramp_up(s(1000))))
        .unwrap();
    breaker.try_acquire().unwrap().success();
    let admitted = (0..1000).filter(|_| breaker.try_acquire().is_ok());
    assert!(admitted.count() < 500);
}

#[test]
fn failures_leave_the_window_however_often_the_same_settings_are_loaded() {
    let clock = ManualClock::new();
    let rules = || CircuitBreaker::builder().trip_on(Trip::failures(5).within(s(30)));
    let standard = standard(&clock)
        .without_retry()
        .breaker(rules())
        .build()
        .unwrap();
    for _ in 0..20 {
        fail(&clock, &standard);
        clock.advance(s(10));
        standard
            .reconfigure(standard.config().breaker(rules()))
            .unwrap();
    }
    assert_eq!(standard.snapshot().breaker.unwrap().state, State::Closed);
}

#[test]
fn a_new_breaker_stays_isolated_until_the_handles_are_dropped() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    let first = standard.breaker().unwrap();
    let isolations = [first.isolate(), first.isolate()];
    // Twice, because a breaker that continues an isolation may be replaced too.
    for measures in [true, false] {
        let other = CircuitBreaker::builder().measure_durations(measures);
        let config = standard.config().breaker(other);
        standard.reconfigure(config).unwrap();
        let rejected = clock.block_on(standard.call(|| async { Ok::<_, ()>(()) }));
        assert!(rejected.is_err_and(|error| error.reason() == Some(Reason::Isolated)));
    }
    let states = || (first.state(), standard.breaker().unwrap().state());
    let [one, other] = isolations;
    drop(one);
    assert_eq!(states(), (State::Isolated, State::Isolated));
    drop(other);
    assert_eq!(states(), (State::Closed, State::Closed));
    assert!(
        clock
            .block_on(standard.call(|| async { Ok::<_, ()>(()) }))
            .is_ok()
    );
    // A handle of a breaker that was replaced isolates the one in force.
    let _isolation = first.isolate();
    assert_eq!(states(), (State::Isolated, State::Isolated));
}

#[test]
fn an_isolated_circuit_that_is_replaced_continues_in_the_state_it_was_in() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    standard.breaker().unwrap().trip();
    let isolation = standard.breaker().unwrap().isolate();
    let other = CircuitBreaker::builder().measure_durations(true);
    standard
        .reconfigure(standard.config().breaker(other))
        .unwrap();
    assert_eq!(standard.breaker().unwrap().state(), State::Isolated);
    drop(isolation);
    assert_eq!(standard.breaker().unwrap().state(), State::Open);
}

/// Runs the code once, at the first change of a circuit.
fn at_the_first_change(code: impl FnOnce() + Send + 'static) -> impl Fn(&Event) + Send + Sync {
    let code = Mutex::new(Some(code));
    move |event| {
        if let Event::CircuitChanged { .. } = event {
            let code = code.lock().unwrap().take();
            code.into_iter().for_each(|code| code());
        }
    }
}

#[test]
fn an_isolation_that_begins_while_the_breaker_is_being_replaced_continues() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    let first = standard.breaker().unwrap();
    let isolation = first.isolate();
    // The new breaker reports that it is isolated before it is in force.
    let begun = Arc::new(Mutex::new(None));
    let (kept, breaker) = (begun.clone(), first.clone());
    let isolate = at_the_first_change(move || *kept.lock().unwrap() = Some(breaker.isolate()));
    let other = CircuitBreaker::builder().observer(isolate);
    standard
        .reconfigure(standard.config().breaker(other))
        .unwrap();
    let state = || standard.breaker().unwrap().state();
    drop(isolation);
    assert_eq!((first.state(), state()), (State::Isolated, State::Isolated));
    drop(begun.lock().unwrap().take());
    assert_eq!((first.state(), state()), (State::Closed, State::Closed));
}

#[test]
fn an_isolation_continues_if_an_observer_changes_the_settings_again() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    let isolation = standard.breaker().unwrap().isolate();
    let stack = standard.clone();
    let change = at_the_first_change(move || {
        let other = CircuitBreaker::builder().measure_durations(true);
        stack.reconfigure(stack.config().breaker(other)).unwrap();
    });
    let other = CircuitBreaker::builder().observer(change).seed(1);
    standard
        .reconfigure(standard.config().breaker(other))
        .unwrap();
    assert_eq!(standard.breaker().unwrap().state(), State::Isolated);
    drop(isolation);
    assert_eq!(standard.breaker().unwrap().state(), State::Closed);
}

#[test]
fn an_observer_that_panics_leaves_no_change_half_done() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    let first = standard.breaker().unwrap();
    let isolation = first.isolate();
    let count = std::sync::atomic::AtomicU32::new(0);
    let panicking = CircuitBreaker::builder().observer(move |event: &Event| {
        if let Event::CircuitChanged { .. } = event {
            let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_ne!(count, 0, "panic of the observer");
        }
    });
    let config = standard.config().breaker(panicking);
    let change = || standard.reconfigure(config.clone());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(change)).unwrap_err();
    assert!(standard.breaker().unwrap().snapshot() == first.snapshot());
    change().unwrap();
    assert_eq!(standard.breaker().unwrap().state(), State::Isolated);
    drop(isolation);
    assert_eq!(standard.breaker().unwrap().state(), State::Closed);
    assert_eq!(first.state(), State::Closed);
}

#[test]
fn threads_that_isolate_and_reconfigure_leave_no_circuit_isolated() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let standard = &standard;
            scope.spawn(move || {
                for round in 0..50 {
                    let isolation = standard.breaker().unwrap().isolate();
                    let other = CircuitBreaker::builder().seed(thread * 1000 + round);
                    standard
                        .reconfigure(standard.config().breaker(other))
                        .unwrap();
                    drop(isolation);
                }
            });
        }
    });
    assert_eq!(standard.breaker().unwrap().state(), State::Closed);
    let isolation = standard.breaker().unwrap().isolate();
    let config = standard.config().breaker(CircuitBreaker::builder());
    standard.reconfigure(config).unwrap();
    assert_eq!(standard.breaker().unwrap().state(), State::Isolated);
    drop(isolation);
    assert_eq!(standard.breaker().unwrap().state(), State::Closed);
}
