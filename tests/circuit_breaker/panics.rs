//! User code that panics, or that uses the breaker it is called by.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};

use backstop::circuit_breaker::{HalfOpen, State, Transitions, Trip};
use backstop::{CircuitBreaker, Clock, Event, Instant, ManualClock, Pipeline, Policy, Sleep};

use super::{builder, secs};

/// Notes that it was woken, and panics then if it is told to.
#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    panics: bool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        assert!(!self.panics, "on purpose");
    }
}

/// Three subscriptions, of which the first one's waker panics.
fn subscribe(breaker: &CircuitBreaker) -> [(Transitions, Arc<Flag>); 3] {
    [true, false, false].map(|panics| {
        let flag = Arc::new(Flag {
            panics,
            ..Flag::default()
        });
        let mut transitions = breaker.subscribe();
        let waker = Waker::from(flag.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(transitions.poll_next_transition(&mut cx).is_pending());
        (transitions, flag)
    })
}

fn panics<R>(code: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(code)).is_err()
}

#[test]
fn a_waker_that_panics_leaves_nobody_else_unwoken() {
    let clock = ManualClock::new();
    let heard = Arc::new(AtomicU32::new(0));
    let count = heard.clone();
    let breaker = builder(&clock)
        .observer(move |_: &Event| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .build()
        .unwrap();
    let subscriptions = subscribe(&breaker);
    assert!(panics(|| breaker.trip()));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    for (mut transitions, flag) in subscriptions {
        assert!(flag.woken.load(Ordering::SeqCst));
        assert_eq!(transitions.try_next().unwrap().to, State::Open);
    }
}

#[test]
fn nor_when_the_breaker_is_dropped() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let subscriptions = subscribe(&breaker);
    assert!(panics(move || drop(breaker)));
    for (mut transitions, flag) in subscriptions {
        assert!(flag.woken.load(Ordering::SeqCst));
        assert_eq!(clock.block_on(transitions.next()), None);
    }
}

#[test]
fn an_observer_that_panics_keeps_nothing_from_the_other() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .observer(move |event: &Event| log.lock().unwrap().push(event.kind()))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(breaker.clone()).observer(|event: &Event| {
        let is_final = matches!(event, Event::CallFinished { .. });
        assert!(is_final, "on purpose");
    });
    for _ in 0..2 {
        let call = pipeline.call(|| async { Err::<(), _>("down") });
        assert!(panics(|| clock.block_on(call)));
    }
    assert_eq!(*heard.lock().unwrap(), ["circuit_changed", "rejected"]);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn an_observer_that_panics_when_a_probe_is_admitted_costs_no_place() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .half_open(HalfOpen::successes(1))
        .observer(|event: &Event| {
            if let Event::CircuitChanged { change, .. } = event {
                assert_ne!(change.to, State::HalfOpen, "on purpose");
            }
        })
        .build()
        .unwrap();
    breaker.trip();
    clock.advance(secs(5));
    assert!(panics(|| breaker.try_acquire().map(drop)));
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::HalfOpen);
    assert_eq!((snapshot.probes_in_flight, snapshot.probes_free), (0, 1));
    assert!(breaker.try_acquire().unwrap().is_probe());
}

#[test]
fn an_observer_that_panics_at_an_isolation_ends_it() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .observer(|event: &Event| {
            if let Event::CircuitChanged { change, .. } = event {
                assert_ne!(change.to, State::Isolated, "on purpose");
            }
        })
        .build()
        .unwrap();
    assert!(panics(|| breaker.isolate()));
    assert_eq!(breaker.state(), State::Closed);
    assert!(breaker.try_acquire().is_ok());
}

/// Panics at the reading of this number.
#[derive(Debug)]
struct Brittle(ManualClock, AtomicU32);

impl Clock for Brittle {
    fn now(&self) -> Instant {
        assert_ne!(self.1.fetch_sub(1, Ordering::SeqCst), 1, "on purpose");
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.0.sleep_until(deadline)
    }
}

#[test]
fn a_clock_that_panics_when_a_probe_starts_costs_no_place() {
    for reading in 1..4 {
        let manual = ManualClock::new();
        let clock = Arc::new(Brittle(manual.clone(), AtomicU32::new(0)));
        let breaker = CircuitBreaker::builder()
            .half_open(HalfOpen::successes(1))
            .clock(Shared(clock.clone()))
            .build()
            .unwrap();
        breaker.half_open();
        clock.1.store(reading, Ordering::SeqCst);
        let admitted = !panics(|| breaker.try_acquire().map(std::mem::forget));
        clock.1.store(0, Ordering::SeqCst);
        let probes = breaker.snapshot().probes_in_flight;
        assert_eq!(probes, u32::from(admitted), "reading {reading}");
    }
}

#[derive(Debug)]
struct Shared(Arc<Brittle>);

impl Clock for Shared {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.0.sleep_until(deadline)
    }
}

/// A waker that changes the breaker when it is dropped.
struct Meddler {
    breaker: CircuitBreaker,
    dropped: Arc<AtomicU32>,
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.breaker.trip();
        self.breaker.close();
        let _ = (self.breaker.snapshot(), self.breaker.subscribe());
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Without that it hangs.
#[test]
fn no_lock_is_held_while_a_waker_is_dropped() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let mut transitions = breaker.subscribe();
    let dropped = Arc::new(AtomicU32::new(0));
    for _ in 0..3 {
        // Of each the subscription has the only handle, and drops it for the next one.
        let waker = Waker::from(Arc::new(Meddler {
            breaker: breaker.clone(),
            dropped: dropped.clone(),
        }));
        while transitions.try_next().is_some() {}
        let mut cx = Context::from_waker(&waker);
        assert!(transitions.poll_next_transition(&mut cx).is_pending());
    }
    // Woken, which here is dropped.
    breaker.trip();
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

/// A clock that looks at the breaker it is the clock of.
#[derive(Clone, Debug, Default)]
struct Curious {
    breaker: Arc<OnceLock<CircuitBreaker>>,
    is_looking: Arc<AtomicBool>,
}

impl Clock for Curious {
    fn now(&self) -> Instant {
        if let Some(breaker) = self.breaker.get() {
            if !self.is_looking.swap(true, Ordering::SeqCst) {
                let _ = (breaker.snapshot(), breaker.peek(), breaker.subscribe());
                self.is_looking.store(false, Ordering::SeqCst);
            }
        }
        Instant::from_nanos(1_000)
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

/// Without that it hangs.
#[test]
fn no_lock_is_held_while_the_clock_is_read() {
    use backstop::keyed::Evictable;

    let clock = Curious::default();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    assert!(clock.breaker.set(breaker.clone()).is_ok());
    breaker.try_acquire().unwrap().failure();
    assert!(breaker.try_acquire().is_err());
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    breaker.pause_for(secs(1));
    breaker.reset();
    drop(breaker.isolate());
    assert!(!breaker.is_evictable(), "the clock has a handle too");
}
