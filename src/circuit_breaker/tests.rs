use std::future::{pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::task::{Context, Wake, Waker};

use super::*;
use crate::clock::ManualClock;
use crate::{Event, Policy};

const SECOND: Duration = Duration::from_secs(1);

/// Notes whether the breaker's lock is free whenever code of the user's runs.
#[derive(Default)]
struct Probe {
    breaker: OnceLock<CircuitBreaker>,
    seen: Mutex<Vec<(String, bool)>>,
}

impl Probe {
    fn look(&self, during: &str) {
        let breaker = self.breaker.get().expect("it is built");
        let is_free = breaker.inner.is_unlocked();
        self.seen.lock().unwrap().push((during.into(), is_free));
    }

    /// When it has looked. The lock must have been free each time.
    fn seen(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let held: Vec<_> = seen.iter().filter(|(_, is_free)| !is_free).collect();
        assert!(held.is_empty(), "the lock is held during {held:?}");
        seen.into_iter().map(|(during, _)| during).collect()
    }
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        self.look("wake");
    }
}

fn watched() -> (ManualClock, CircuitBreaker, Arc<Probe>) {
    let (clock, probe) = (ManualClock::new(), Arc::new(Probe::default()));
    let (listener, length) = (probe.clone(), probe.clone());
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .break_with(move |_, _| {
            length.look("break_with");
            SECOND
        })
        .observer(move |event: &Event| listener.look(event.kind()))
        .clock(clock.clone())
        .build()
        .unwrap();
    let is_first = probe.breaker.set(breaker.clone()).is_ok();
    assert!(is_first);
    (clock, breaker, probe)
}

#[test]
fn pitfall_19_no_lock_is_held_while_somebody_is_told() {
    let (clock, breaker, probe) = watched();
    let mut transitions = breaker.subscribe();
    let waker = Waker::from(probe.clone());
    let mut wait = || transitions.poll_next_transition(&mut Context::from_waker(&waker));

    assert!(wait().is_pending());
    breaker.try_acquire().unwrap().failure();
    assert_eq!(probe.seen(), ["break_with", "wake", "circuit_changed"]);

    assert!(breaker.try_acquire().is_err());
    assert_eq!(probe.seen(), ["rejected"]);

    assert!(wait().is_ready() && wait().is_pending());
    clock.advance(SECOND);
    let trial = breaker.try_acquire().unwrap();
    assert_eq!(probe.seen(), ["wake", "circuit_changed"]);

    trial.failure();
    assert_eq!(probe.seen(), ["break_with", "circuit_changed"]);

    clock.advance(SECOND);
    breaker.try_acquire().unwrap().success();
    assert_eq!(probe.seen(), ["circuit_changed"; 2]);

    breaker.metrics_only();
    breaker.try_acquire().unwrap().failure();
    assert_eq!(probe.seen(), ["circuit_changed", "circuit_would_open"]);

    drop(breaker.isolate());
    breaker.trip();
    assert_eq!(
        probe.seen(),
        [
            "circuit_changed",
            "circuit_changed",
            "break_with",
            "circuit_changed"
        ]
    );
}

#[test]
fn pitfall_22_no_lock_is_held_while_the_operation_runs() {
    let (clock, breaker, probe) = watched();
    let ran = AtomicU32::new(0);
    let look = || {
        probe.look("operation");
        ran.fetch_add(1, Ordering::Relaxed)
    };
    // Closed, then as a trial call.
    for _ in 0..2 {
        let made = breaker.call(|| {
            look();
            ready(Ok::<_, ()>(look()))
        });
        clock.block_on(made).unwrap();
        let polled = breaker.call(|| async { Ok::<_, ()>(look()) });
        clock.block_on(polled).unwrap();
        let permit = breaker.try_acquire().unwrap();
        look();
        permit.success();
        {
            // Pending, and dropped.
            let mut call = pin!(breaker.call(|| {
                look();
                pending::<Result<(), ()>>()
            }));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert!(breaker.inner.is_unlocked());
        }
        breaker.half_open();
    }
    assert_eq!(ran.into_inner(), 10);
    let seen = probe.seen();
    assert_eq!(
        seen.iter().filter(|during| *during == "operation").count(),
        10
    );
}
