use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::*;
use crate::Backoff;
use crate::clock::ManualClock;

fn breaker(trip: Trip) -> (ManualClock, CircuitBreaker) {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(trip)
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::fixed(Duration::from_secs(5)).jitter(crate::Jitter::None))
        .seed(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    (clock, breaker)
}

/// Runs both concurrently, in every possible order.
fn race(
    breaker: &CircuitBreaker,
    first: impl FnOnce(&CircuitBreaker) + 'static,
    second: impl FnOnce(&CircuitBreaker),
) {
    let other = {
        let breaker = breaker.clone();
        thread::spawn(move || first(&breaker))
    };
    second(breaker);
    other.join().unwrap();
}

#[test]
fn loom_one_probe_is_admitted_once() {
    loom::model(|| {
        let (clock, breaker) = breaker(Trip::consecutive(1));
        breaker.trip();
        clock.advance(Duration::from_secs(5));
        let admitted = Arc::new(AtomicU64::new(0));
        let count = admitted.clone();
        let acquire = |admitted: &AtomicU64, breaker: &CircuitBreaker| {
            if let Ok(permit) = breaker.try_acquire() {
                admitted.fetch_add(1, Ordering::SeqCst);
                std::mem::forget(permit);
            }
        };
        race(
            &breaker,
            move |breaker| acquire(&count, breaker),
            |breaker| acquire(&admitted, breaker),
        );
        assert_eq!(admitted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn loom_a_released_probe_is_not_lost() {
    loom::model(|| {
        let (clock, breaker) = breaker(Trip::consecutive(1));
        breaker.trip();
        clock.advance(Duration::from_secs(5));
        race(
            &breaker,
            |breaker| drop(breaker.try_acquire()),
            |breaker| drop(breaker.try_acquire()),
        );
        assert!(breaker.try_acquire().is_ok());
    });
}

#[test]
fn loom_the_last_of_two_racing_failures_opens() {
    // Bounded, because all interleavings take minutes. Counters that are not sequentially consistent fail with a
    // bound of two.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        for trip in [Trip::consecutive(2), Trip::failures(2).of_last(4)] {
            let (_clock, breaker) = breaker(trip);
            race(
                &breaker,
                |breaker| breaker.try_acquire().unwrap().failure(),
                // Admitted, because the circuit opens only after both have failed.
                |breaker| breaker.try_acquire().unwrap().failure(),
            );
            assert_eq!(breaker.state(), State::Open);
            assert_eq!(breaker.snapshot().consecutive_trips, 1);
        }
    });
}

#[test]
fn loom_a_result_from_before_a_reset_is_not_recorded_into_the_new_windows() {
    loom::model(|| {
        let (_clock, breaker) = breaker(Trip::consecutive(5));
        let handle = breaker.clone();
        let old = breaker.try_acquire().unwrap();
        let resetter = thread::spawn(move || handle.reset());
        old.failure();
        resetter.join().unwrap();
        assert_eq!(breaker.snapshot().consecutive_failures, 0);
    });
}

#[test]
fn loom_a_thread_that_observes_an_open_circuit_observes_the_end_of_its_break() {
    loom::model(|| {
        let (_clock, breaker) = breaker(Trip::consecutive(1));
        race(
            &breaker,
            |breaker| breaker.try_acquire().unwrap().failure(),
            |breaker| {
                if let Err(rejected) = breaker.try_acquire() {
                    assert_eq!(rejected.retry_after(), Some(Duration::from_secs(5)));
                }
            },
        );
    });
}
