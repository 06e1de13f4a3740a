use std::future::{pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::task::{Context, Wake, Waker};

use super::*;
use crate::clock::ManualClock;
use crate::{Event, Policy};

const SECOND: Duration = Duration::from_secs(1);

/// Records whether the lock of the breaker is free whenever user code runs.
#[derive(Default)]
struct LockSpy {
    breaker: OnceLock<CircuitBreaker>,
    seen: Mutex<Vec<(String, bool)>>,
}

impl LockSpy {
    fn check(&self, during: &str) {
        let breaker = self.breaker.get().expect("it is built");
        let is_free = breaker.inner.is_unlocked();
        self.seen.lock().unwrap().push((during.into(), is_free));
    }

    /// Returns the checks since the last call of this function. Fails if the lock was held during one of them.
    fn seen(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let held: Vec<_> = seen.iter().filter(|(_, is_free)| !is_free).collect();
        assert!(held.is_empty(), "the lock is held during {held:?}");
        seen.into_iter().map(|(during, _)| during).collect()
    }
}

impl Wake for LockSpy {
    fn wake(self: Arc<Self>) {
        self.check("wake");
    }
}

fn watched() -> (ManualClock, CircuitBreaker, Arc<LockSpy>) {
    let (clock, spy) = (ManualClock::new(), Arc::new(LockSpy::default()));
    let (listener, length) = (spy.clone(), spy.clone());
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .break_with(move |_, _| {
            length.check("break_with");
            SECOND
        })
        .observer(move |event: &Event| listener.check(event.kind()))
        .clock(clock.clone())
        .build()
        .unwrap();
    let is_first = spy.breaker.set(breaker.clone()).is_ok();
    assert!(is_first);
    (clock, breaker, spy)
}

#[test]
fn no_lock_is_held_while_subscribers_and_observers_are_notified() {
    let (clock, breaker, spy) = watched();
    let mut transitions = breaker.subscribe();
    let waker = Waker::from(spy.clone());
    let mut wait = || transitions.poll_next_transition(&mut Context::from_waker(&waker));

    assert!(wait().is_pending());
    breaker.try_acquire().unwrap().failure();
    assert_eq!(spy.seen(), ["break_with", "wake", "circuit_changed"]);

    assert!(breaker.try_acquire().is_err());
    assert_eq!(spy.seen(), ["rejected"]);

    assert!(wait().is_ready() && wait().is_pending());
    clock.advance(SECOND);
    let probe = breaker.try_acquire().unwrap();
    assert_eq!(spy.seen(), ["wake", "circuit_changed"]);

    probe.failure();
    assert_eq!(spy.seen(), ["break_with", "circuit_changed"]);

    clock.advance(SECOND);
    breaker.try_acquire().unwrap().success();
    assert_eq!(spy.seen(), ["circuit_changed"; 2]);

    breaker.metrics_only();
    breaker.try_acquire().unwrap().failure();
    assert_eq!(spy.seen(), ["circuit_changed", "circuit_would_open"]);

    drop(breaker.isolate());
    breaker.trip();
    assert_eq!(
        spy.seen(),
        [
            "circuit_changed",
            "circuit_changed",
            "break_with",
            "circuit_changed"
        ]
    );
}

#[test]
fn no_lock_is_held_while_the_operation_runs() {
    let (clock, breaker, spy) = watched();
    let ran = AtomicU32::new(0);
    let check = || {
        spy.check("operation");
        ran.fetch_add(1, Ordering::Relaxed)
    };
    // First in a closed circuit, then as a probe.
    for _ in 0..2 {
        let made = breaker.call(|| {
            check();
            ready(Ok::<_, ()>(check()))
        });
        clock.block_on(made).unwrap();
        let polled = breaker.call(|| async { Ok::<_, ()>(check()) });
        clock.block_on(polled).unwrap();
        let permit = breaker.try_acquire().unwrap();
        check();
        permit.success();
        {
            // The call is pending and then dropped.
            let mut call = pin!(breaker.call(|| {
                check();
                pending::<Result<(), ()>>()
            }));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert!(breaker.inner.is_unlocked());
        }
        breaker.half_open();
    }
    assert_eq!(ran.into_inner(), 10);
    let seen = spy.seen();
    assert_eq!(
        seen.iter().filter(|during| *during == "operation").count(),
        10
    );
}

#[test]
fn an_observer_that_panics_ends_no_isolation_that_continues() {
    let clock = ManualClock::new();
    let builder = || CircuitBreaker::builder().clock(clock.clone());
    let old = builder().build().unwrap();
    let panics = |event: &Event| {
        if let Event::CircuitChanged { .. } = event {
            panic!("the observer");
        }
    };
    let new = builder().observer(panics).build().unwrap();
    let isolations = [old.isolate(), old.isolate()];
    let continued = std::panic::AssertUnwindSafe(|| new.continue_from(&old));
    assert!(std::panic::catch_unwind(continued).is_err());
    let [first, second] = isolations;
    drop(first);
    assert_eq!(new.state(), State::Isolated);
    let ended = std::panic::AssertUnwindSafe(|| drop(second));
    assert!(std::panic::catch_unwind(ended).is_err());
    assert_eq!(new.state(), State::Closed);
}

/// Two changes of a stack at once: the second one has finished when the first one takes over from its breaker.
#[test]
fn a_subscription_that_is_passed_on_late_reaches_the_breaker_in_force() {
    let clock = ManualClock::new();
    let breaker = || {
        let breaker = CircuitBreaker::builder().clock(clock.clone());
        breaker.build().unwrap()
    };
    let (first, second, third) = (breaker(), breaker(), breaker());
    second.continue_from(&first);
    let mut transitions = first.subscribe();
    third.continue_from(&second);
    third.take_over_from(&second);
    second.take_over_from(&first);
    third.take_over_from(&first);
    third.trip();
    let change = transitions.try_next().expect("the circuit has opened");
    assert_eq!(change.to, State::Open);
}
