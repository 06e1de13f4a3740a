use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use backstop::circuit_breaker::{State, Trip};
use backstop::{CircuitBreaker, Event, ManualClock, Policy};

use super::watchdog::within_a_minute;
use super::{builder, feed, one_probe, secs};

#[test]
fn an_observer_may_use_the_breaker() {
    let (state, received) = within_a_minute(|| {
        let clock = ManualClock::new();
        let handle: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
        let received = Arc::new(AtomicU32::new(0));
        let breaker = {
            let (handle, received) = (handle.clone(), received.clone());
            builder(&clock)
                .trip_on(Trip::consecutive(1))
                .observer(move |event: &Event| {
                    let breaker = handle.lock().unwrap().clone().unwrap();
                    received.fetch_add(1, Ordering::SeqCst);
                    let _ = (breaker.state(), breaker.peek(), breaker.snapshot());
                    if received.load(Ordering::SeqCst) == 1 {
                        assert_eq!(event.kind(), "circuit_changed");
                        let _ = breaker.try_acquire();
                        breaker.close();
                    }
                })
                .build()
                .unwrap()
        };
        *handle.lock().unwrap() = Some(breaker.clone());
        feed(&breaker, &clock, "x");
        (breaker.state(), received.load(Ordering::SeqCst))
    });
    assert_eq!(state, State::Closed);
    // Opened, rejected, closed.
    assert_eq!(received, 3);
}

#[test]
fn a_trip_ends_although_computing_its_length_changes_the_circuit() {
    let clock = ManualClock::new();
    let handle: Arc<OnceLock<CircuitBreaker>> = Arc::default();
    let (computing, lengths) = (handle.clone(), AtomicU32::new(0));
    let breaker = CircuitBreaker::builder().break_with(move |_, _| {
        assert!(
            lengths.fetch_add(1, Ordering::SeqCst) < 100,
            "it never ends"
        );
        if let Some(breaker) = computing.get() {
            breaker.reset();
        }
        secs(7)
    });
    let breaker = breaker.clock(clock.clone()).build().unwrap();
    let _ = handle.set(breaker.clone());
    breaker.trip();
    assert_eq!(breaker.snapshot().retry_after, Some(secs(7)));
}

#[test]
fn the_breaker_can_be_used_while_an_operation_runs() {
    let result = within_a_minute(|| {
        let clock = ManualClock::new();
        let breaker = one_probe(&clock);
        clock.block_on(breaker.call(|| {
            // Another thread uses the breaker in the middle of the operation.
            let other = breaker.clone();
            let calls = within_a_minute(move || {
                assert!(other.try_acquire().is_err());
                drop(other.isolate());
                other.reset();
                other.snapshot().calls
            });
            assert_eq!(calls, 0);
            async { Ok::<_, ()>(()) }
        }))
    });
    assert_eq!(result, Ok(()));
}
