use std::future::{Pending, pending};
use std::pin::pin;
use std::time::Duration;

use backstop::circuit_breaker::{Cause, HalfOpen, State, Trip};
use backstop::policy::{Health, Run};
use backstop::{Context, ManualClock, Operation, Outcome, Policy};

use super::{builder, feed, ms, one_probe, poll_once, secs};

#[test]
fn max_half_open_ends_at_its_exact_instant() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .max_half_open(secs(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    clock.advance(secs(5));
    let _hung = breaker.try_acquire().unwrap();
    clock.advance(secs(1) - Duration::from_nanos(1));
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), None);
    assert_eq!(breaker.state(), State::HalfOpen);
    clock.advance(Duration::from_nanos(1));
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(secs(5)));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn results_of_probes_do_not_expire_with_the_window() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failures(1).within(ms(100)))
        .half_open(HalfOpen::successes(2))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    clock.advance(secs(5));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::HalfOpen);
    clock.advance(ms(200));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_cancelled_probe_is_released() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    {
        let mut call = pin!(breaker.call(pending::<Result<(), ()>>));
        assert!(poll_once(call.as_mut()).is_pending());
        assert!(breaker.try_acquire().is_err());
    }
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(
        clock.block_on(breaker.call(|| async { Ok::<_, ()>(1) })),
        Ok(1)
    );
    assert_eq!(breaker.state(), State::Closed);
}

/// An inner layer that waits forever.
struct Stuck;

impl Policy for Stuck {}

impl<Op: Operation> Run<Op> for &Stuck {
    type Future = Pending<Outcome<Op::Value, Op::Error>>;

    fn run(self, _: Op, _: Context) -> Self::Future {
        pending()
    }
}

#[test]
fn a_probe_cancelled_while_it_waits_for_an_inner_layer_is_released() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    let stack = (&breaker, Stuck);
    for _ in 0..10 {
        let mut call = pin!(stack.call(|| async { Ok::<_, ()>(1) }));
        assert!(poll_once(call.as_mut()).is_pending());
        assert_eq!(breaker.snapshot().probes_in_flight, 1);
    }
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn a_hanging_probe_is_replaced_after_its_lease() {
    let clock = ManualClock::new();
    for (lost_as, after) in [
        (Health::Neutral, State::HalfOpen),
        (Health::Unhealthy, State::Open),
    ] {
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .half_open(HalfOpen::successes(1))
            .probe_lease(secs(2))
            .lost_probes_as(lost_as)
            .build()
            .unwrap();
        feed(&breaker, &clock, "x");
        clock.advance(secs(5));
        let hung = breaker.try_acquire().unwrap();
        clock.advance(secs(2) - Duration::from_nanos(1));
        assert!(breaker.try_acquire().is_err());
        clock.advance(Duration::from_nanos(1));
        assert_eq!(breaker.peek(), after);
        match breaker.try_acquire() {
            Ok(permit) => {
                assert_eq!(lost_as, Health::Neutral);
                // The replaced probe is ignored.
                hung.failure();
                assert_eq!(breaker.state(), State::HalfOpen);
                permit.success();
                assert_eq!(breaker.state(), State::Closed);
            }
            Err(rejected) => {
                assert_eq!(rejected.retry_after(), Some(secs(5)));
                hung.success();
                assert_eq!(breaker.state(), State::Open);
            }
        }
    }
}

#[test]
fn results_of_calls_from_an_earlier_state_are_ignored() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    let old: Vec<_> = (0..4).map(|_| breaker.try_acquire().unwrap()).collect();
    let mut old = old.into_iter();
    feed(&breaker, &clock, "x");
    old.next().unwrap().failure();
    assert_eq!(breaker.snapshot().consecutive_trips, 1);
    assert_eq!(breaker.snapshot().retry_after, Some(secs(5)));

    clock.advance(secs(5));
    let probe = breaker.try_acquire().unwrap();
    old.next().unwrap().success();
    assert_eq!(breaker.state(), State::HalfOpen);
    old.next().unwrap().failure();
    assert_eq!(breaker.state(), State::HalfOpen);
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
    // The same in the next closed state.
    old.next().unwrap().failure();
    assert_eq!(breaker.state(), State::Closed);
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
        // Slow probes count against the slow rate of the trip rule.
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
    // One more result is needed.
    let d = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err());
    d.success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn the_break_after_max_half_open_begins_at_its_end() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).max_half_open(secs(1)).build().unwrap();
    breaker.half_open();
    feed(&breaker, &clock, ".");
    clock.advance(ms(1500));
    assert_eq!(
        (breaker.state(), breaker.peek()),
        (State::HalfOpen, State::Open)
    );
    // The break began when the half-open time ended, not at the next call.
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(ms(4500)));
}

#[test]
fn few_calls_close_the_circuit_unless_max_half_open_is_too_short() {
    // A success every ten seconds, and breaks of five seconds.
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
fn the_share_of_admitted_calls_grows_during_the_ramp_up() {
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

    // Failures during the ramp-up count.
    breaker.close();
    let mut rejections = 0;
    while breaker.state() == State::Closed {
        match breaker.try_acquire() {
            Ok(permit) => permit.failure(),
            Err(rejected) => {
                // The next call may be admitted, so there is no `retry_after`.
                assert_eq!(rejected.retry_after(), None);
                rejections += 1;
            }
        }
    }
    assert!(rejections > 0);
    breaker.reset();
    assert!((0..100).all(|_| breaker.try_acquire().is_ok()));
}

#[test]
fn max_half_open_ends_in_the_configured_state() {
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
