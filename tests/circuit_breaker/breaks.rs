use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, Jitter, ManualClock, Verdict};

use super::{builder, feed, secs};

#[test]
fn a_reset_while_the_break_is_computed_cancels_the_opening() {
    let clock = ManualClock::new();
    let handle: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
    let breaker = {
        let handle = handle.clone();
        CircuitBreaker::builder()
            .trip_on(Trip::consecutive(1))
            .break_with(move |_, _| {
                let breaker = handle.lock().unwrap().take();
                if let Some(breaker) = breaker {
                    breaker.reset();
                }
                secs(5)
            })
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    *handle.lock().unwrap() = Some(breaker.clone());
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().consecutive_trips, 0);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_break_of_zero_length_admits_a_probe_at_once() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .half_open(HalfOpen::successes(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip_for(Duration::ZERO);
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.peek(), State::HalfOpen);
    assert!(breaker.try_acquire().unwrap().is_probe());
}

#[test]
fn a_panic_in_break_with_leaves_the_opening_pending() {
    let clock = ManualClock::new();
    let panics = Arc::new(AtomicU32::new(0));
    let breaker = {
        let panics = panics.clone();
        CircuitBreaker::builder()
            .clock(clock.clone())
            .trip_on(Trip::consecutive(1))
            .half_open(HalfOpen::successes(1))
            .break_with(move |_, _| {
                let panics = panics.fetch_add(1, Ordering::SeqCst);
                assert!(panics % 2 == 1, "on purpose");
                secs(5)
            })
            .build()
            .unwrap()
    };
    let fail = || {
        let failed = catch_unwind(AssertUnwindSafe(|| feed(&breaker, &clock, "x")));
        assert!(failed.is_err());
    };
    fail();
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.snapshot().retry_after, Some(secs(5)));
    clock.advance(secs(5));
    // The probe failed, but computing the break panicked, so the opening stays pending.
    fail();
    assert_eq!(breaker.state(), State::HalfOpen);
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(secs(5)));
    assert_eq!(breaker.state(), State::Open);
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
        // The break ends at its exact nanosecond.
        clock.advance(secs(length) - Duration::from_nanos(1));
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(Duration::from_nanos(1)));
        clock.advance(Duration::from_nanos(1));
    }
    feed(&breaker, &clock, ".x");
    assert_eq!(breaker.snapshot().retry_after, Some(secs(1)));
}

#[test]
fn break_with_computes_the_length_of_the_break() {
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
fn a_server_hint_lengthens_the_break_up_to_max_hint() {
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
fn a_growing_break_is_capped_at_300_seconds_by_default() {
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
fn a_break_has_the_jitter_of_its_backoff_and_by_default_lasts_at_least_half() {
    let breaks = |backoff: Option<Backoff>| {
        let lengths = (0..200).map(|seed| {
            let builder = CircuitBreaker::builder().trip_on(Trip::consecutive(1));
            let builder = builder.seed(seed).clock(ManualClock::new());
            let builder = match &backoff {
                Some(backoff) => builder.break_for(backoff.clone()),
                None => builder,
            };
            let breaker = builder.build().unwrap();
            breaker.try_acquire().unwrap().failure();
            breaker.try_acquire().unwrap_err().retry_after().unwrap()
        });
        lengths.min().unwrap()
    };
    assert!(breaks(None) >= secs(5) / 2);
    let growing = Backoff::exponential(secs(5)).max(secs(60));
    assert!(breaks(Some(growing.clone())) < secs(1));
    assert!(breaks(Some(growing.clone().jitter(Jitter::Equal))) >= secs(5) / 2);
    assert_eq!(breaks(Some(growing.jitter(Jitter::None))), secs(5));
}
