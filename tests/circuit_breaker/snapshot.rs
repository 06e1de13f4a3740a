use std::time::Duration;

use allocation_counter::measure;
use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, ManualClock};

use super::{builder, feed, ms, one_probe, poll_once, secs};

#[test]
fn durations_of_weeks_do_not_overflow_the_window() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(1.0).within(secs(30)).min_calls(100))
        .measure_durations(true)
        .build()
        .unwrap();
    let month = secs(30 * 24 * 3600);
    for calls in 1..=5 {
        let permit = breaker.try_acquire().unwrap();
        permit.record_with_duration(backstop::Verdict::success(), month);
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.calls, calls);
        // The sum saturates instead of overflowing.
        assert!(snapshot.total_duration.unwrap() >= secs(12 * 24 * 3600));
    }
    // The next window starts at zero.
    clock.advance(secs(30));
    let permit = breaker.try_acquire().unwrap();
    permit.record_with_duration(backstop::Verdict::success(), ms(7));
    assert_eq!(breaker.snapshot().total_duration, Some(ms(7)));
}

#[test]
fn a_snapshot_restores_a_breaker() {
    let clock = ManualClock::new();
    let template = || {
        builder(&clock)
            .trip_on(Trip::failure_rate(0.5).of_last(40))
            .trip_on(Trip::consecutive(4))
            .half_open(HalfOpen::successes(1))
            .break_for(Backoff::exponential(secs(2)).jitter(backstop::Jitter::None))
    };
    let breaker = template().build().unwrap();
    feed(&breaker, &clock, "....x.xxx");
    let restored = template().restore(breaker.snapshot()).build().unwrap();
    let (old, new) = (breaker.snapshot(), restored.snapshot());
    assert_eq!(
        (new.calls, new.failures, new.consecutive_failures),
        (9, 4, 3)
    );
    assert_eq!(old.state, new.state);
    feed(&restored, &clock, "x");
    assert_eq!(restored.state(), State::Open);

    clock.advance(secs(2));
    feed(&restored, &clock, "x");
    clock.advance(secs(1));
    let restored = template().restore(restored.snapshot()).build().unwrap();
    assert_eq!(
        (restored.state(), restored.snapshot().consecutive_trips),
        (State::Open, 2)
    );
    assert_eq!(
        restored.try_acquire().unwrap_err().retry_after(),
        Some(secs(3))
    );
    clock.advance(secs(3));
    feed(&restored, &clock, "x");
    assert_eq!(restored.snapshot().retry_after, Some(secs(8)));

    // The remaining states.
    for (manual, state) in [
        (
            CircuitBreaker::disable as fn(&CircuitBreaker),
            State::Disabled,
        ),
        (CircuitBreaker::metrics_only, State::MetricsOnly),
        (CircuitBreaker::half_open, State::Open),
    ] {
        manual(&restored);
        let again = template().restore(restored.snapshot()).build().unwrap();
        assert_eq!(again.state(), state);
        assert!(again.try_acquire().is_ok());
    }
    let _isolation = restored.isolate();
    let again = template().restore(restored.snapshot()).build().unwrap();
    assert_eq!(again.peek(), State::HalfOpen);
}

#[test]
fn durations_are_measured_only_if_configured() {
    for (trip, mean) in [
        (Trip::failure_rate(1.0).of_last(4), ms(750)),
        (Trip::failure_rate(1.0).within(secs(100)), ms(600)),
    ] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(trip)
            .measure_durations(true)
            .build()
            .unwrap();
        feed(&breaker, &clock, ".s.ss");
        assert_eq!(breaker.snapshot().mean_duration(), Some(mean));
    }
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    assert_eq!(breaker.snapshot().mean_duration(), None);
}

#[test]
fn a_snapshot_has_no_rate_below_min_calls() {
    let clock = ManualClock::new();
    let rule = Trip::failure_rate(1.0).of_last(10).min_calls(4);
    let breaker = builder(&clock)
        .trip_on(rule)
        .slow_call(secs(1))
        .build()
        .unwrap();
    assert_eq!(breaker.snapshot().failure_rate(), None);
    feed(&breaker, &clock, ".xs");
    let early = breaker.snapshot();
    assert_eq!((early.failure_rate(), early.slow_rate()), (None, None));
    assert_eq!((early.calls, early.successes()), (3, 2));
    feed(&breaker, &clock, ".");
    let enough = breaker.snapshot();
    assert_eq!(enough.failure_rate(), Some(0.25));
    assert_eq!(enough.slow_rate(), Some(0.25));
}

#[test]
fn reading_changes_nothing() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    let before = breaker.snapshot();
    for _ in 0..100 {
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.peek(), State::HalfOpen);
        let _ = format!("{breaker:?} {:?}", breaker.snapshot());
    }
    assert_eq!(breaker.snapshot(), before);
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn calls_allocate_no_memory_after_build() {
    let clock = ManualClock::new();
    let one = builder(&clock).trip_on(Trip::failure_rate(0.9).within(secs(60)));
    let many = one
        .clone()
        .trip_on(Trip::slow_rate(0.9).within(secs(60)))
        .trip_on(Trip::failure_rate(0.9).of_last(100))
        .slow_call(ms(1));
    let timed = many.clone().measure_durations(true);
    let call = |breaker: &CircuitBreaker, index: u32| {
        let permit = breaker.try_acquire().unwrap();
        // First within one window, then beyond it.
        clock.advance(Duration::from_micros(if index % 7 == 0 {
            2_000
        } else {
            500
        }));
        match index % 5 {
            0 => permit.failure(),
            1 => drop(permit),
            _ => permit.success(),
        }
    };
    // Most calls are in the window at the end.
    const CALLS: u32 = 100_000;
    for builder in [one, many, timed] {
        let build = || builder.clone().build().unwrap();
        let mut kept = None;
        let empty = measure(|| kept = Some(build()));
        drop(kept.take());
        let full = measure(|| {
            let breaker = build();
            (0..CALLS).for_each(|index| call(&breaker, index));
            kept = Some(breaker);
        });
        let snapshot = kept.as_ref().unwrap().snapshot();
        assert!(snapshot.calls > 50_000, "{snapshot:?}");
        assert!(empty.bytes_current > 0);
        assert_eq!(full.bytes_current, empty.bytes_current);
        assert_eq!(full.count_total, empty.count_total);
    }
}

#[test]
fn a_snapshot_taken_during_health_checks_restores_the_end_of_the_break() {
    let clock = ManualClock::new();
    let template = || builder(&clock).trip_on(Trip::consecutive(1));
    let breaker = template().build().unwrap();
    let mut checks = std::pin::pin!(breaker.check_with(secs(1), || async { Err::<(), ()>(()) }));
    assert!(poll_once(checks.as_mut()).is_pending());
    feed(&breaker, &clock, "x");
    clock.advance(secs(2));
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), None, "health checks decide");
    assert_eq!(breaker.snapshot().retry_after, Some(secs(3)));
    let restored = template().restore(breaker.snapshot()).build().unwrap();
    assert!(restored.try_acquire().is_err());
    clock.advance(secs(3));
    assert!(restored.try_acquire().unwrap().is_probe());
}

#[test]
fn counts_of_a_long_window_do_not_fill_a_short_one_after_a_restart() {
    let clock = ManualClock::new();
    let windows = || {
        builder(&clock)
            .trip_on(Trip::failures(50).within(secs(600)))
            .trip_on(Trip::failures(5).within(secs(10)))
    };
    let before = windows().build().unwrap();
    for _ in 0..40 {
        before.try_acquire().unwrap().failure();
        clock.advance(secs(5));
    }
    let after = windows().restore(before.snapshot()).build().unwrap();
    assert_eq!(after.snapshot().failures, 40);
    after.try_acquire().unwrap().success();
    assert_eq!(after.state(), State::Closed);
}
