//! Panics of user code, and user code that uses the breaker it is called from.

use backstop::policy::Health;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};

use backstop::circuit_breaker::{HalfOpen, State, Transitions, Trip};
use backstop::{CircuitBreaker, Clock, Event, Instant, ManualClock, Pipeline, Policy, Sleep};

use super::watchdog::within_a_minute;
use super::{builder, feed, poll_once, secs};

/// A waker that records that it was woken, and may panic then.
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

/// Three subscriptions. The waker of the first panics.
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

/// A waker that closes a breaker.
struct Closes(CircuitBreaker);

impl Wake for Closes {
    fn wake(self: Arc<Self>) {
        self.0.close();
    }
}

#[test]
fn a_change_is_numbered_when_it_is_made_not_when_it_is_reported() {
    within_a_minute(|| {
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let log = heard.clone();
        let breaker = builder(&ManualClock::new())
            .observer(move |event: &Event| {
                if let Event::CircuitChanged { change, .. } = event {
                    log.lock().unwrap().push((event.sequence(), change.to));
                }
            })
            .build()
            .unwrap();
        let mut transitions = breaker.subscribe();
        let waker = Waker::from(Arc::new(Closes(breaker.clone())));
        let mut cx = Context::from_waker(&waker);
        assert!(transitions.poll_next_transition(&mut cx).is_pending());
        // Subscribers are woken before observers hear of the change, and this one closes the circuit.
        breaker.trip();
        assert_eq!(breaker.state(), State::Closed);
        let expected = [(Some(2), State::Closed), (Some(1), State::Open)];
        assert_eq!(*heard.lock().unwrap(), expected);
    });
}

fn panics<R>(code: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(code)).is_err()
}

#[test]
fn after_a_waker_panics_the_other_subscribers_are_still_woken() {
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
fn after_a_waker_panics_while_the_breaker_is_dropped_the_others_are_still_woken() {
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
fn after_an_observer_panics_the_other_is_still_called() {
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
fn an_observer_that_panics_when_a_probe_is_admitted_releases_it() {
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

/// A clock that panics at one reading, which the counter selects.
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
fn a_clock_that_panics_when_a_probe_starts_releases_it() {
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

/// A waker that uses the breaker when it is dropped.
struct UsingWaker {
    breaker: CircuitBreaker,
    dropped: Arc<AtomicU32>,
}

impl Wake for UsingWaker {
    fn wake(self: Arc<Self>) {}
}

impl Drop for UsingWaker {
    fn drop(&mut self) {
        self.breaker.trip();
        self.breaker.close();
        let _ = (self.breaker.snapshot(), self.breaker.subscribe());
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A held lock would deadlock.
#[test]
fn no_lock_is_held_while_a_waker_is_dropped() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let breaker = builder(&clock).build().unwrap();
        let mut transitions = breaker.subscribe();
        let dropped = Arc::new(AtomicU32::new(0));
        for _ in 0..3 {
            // The subscription holds the only reference, and drops it when it registers the next waker.
            let waker = Waker::from(Arc::new(UsingWaker {
                breaker: breaker.clone(),
                dropped: dropped.clone(),
            }));
            while transitions.try_next().is_some() {}
            let mut cx = Context::from_waker(&waker);
            assert!(transitions.poll_next_transition(&mut cx).is_pending());
        }
        // Waking drops the last one.
        breaker.trip();
        assert_eq!(dropped.load(Ordering::SeqCst), 3);
        while transitions.try_next().is_some() {}
        let waker = Waker::from(Arc::new(UsingWaker {
            breaker: breaker.clone(),
            dropped: dropped.clone(),
        }));
        let mut cx = Context::from_waker(&waker);
        assert!(transitions.poll_next_transition(&mut cx).is_pending());
        drop(waker);
        drop(transitions);
        assert_eq!(dropped.load(Ordering::SeqCst), 4);
    });
}

/// A clock that reads the breaker whose clock it is.
#[derive(Clone, Debug, Default)]
struct ReadingClock {
    breaker: Arc<OnceLock<CircuitBreaker>>,
    is_reading: Arc<AtomicBool>,
}

impl Clock for ReadingClock {
    fn now(&self) -> Instant {
        if let Some(breaker) = self.breaker.get() {
            if !self.is_reading.swap(true, Ordering::SeqCst) {
                let _ = (breaker.snapshot(), breaker.peek(), breaker.subscribe());
                self.is_reading.store(false, Ordering::SeqCst);
            }
        }
        Instant::from_nanos(1_000)
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

/// A held lock would deadlock.
#[test]
fn no_lock_is_held_while_the_clock_is_read() {
    within_a_minute(|| {
        use backstop::keyed::Evictable;

        let clock = ReadingClock::default();
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
        assert!(!breaker.is_evictable(), "the clock holds a handle");
    });
}

#[test]
fn a_panic_counts_as_configured_and_releases_the_probe() {
    for (as_health, state) in [
        (Health::Unhealthy, State::Open),
        (Health::Neutral, State::HalfOpen),
        (Health::Healthy, State::Closed),
    ] {
        for sync in [false, true] {
            let clock = ManualClock::new();
            let breaker = builder(&clock)
                .trip_on(Trip::consecutive(2))
                .half_open(HalfOpen::successes(1))
                .panicked_as(as_health)
                .build()
                .unwrap();
            feed(&breaker, &clock, "xx");
            clock.advance(secs(5));
            let panicked = catch_unwind(AssertUnwindSafe(|| match sync {
                true => {
                    let _permit = breaker.try_acquire().unwrap();
                    panic!("on purpose");
                }
                false => clock.block_on(breaker.call(|| async {
                    match Ok::<(), ()>(()) {
                        Ok(()) => panic!("on purpose"),
                        error => error,
                    }
                })),
            }));
            assert!(panicked.is_err());
            assert_eq!(breaker.state(), state, "{as_health:?} {sync}");
            assert_eq!(breaker.snapshot().probes_in_flight, 0);
            clock.advance(secs(5));
            assert!(breaker.try_acquire().is_ok());
        }
    }
}

#[test]
fn a_panic_in_the_closure_counts_too() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let call = breaker.call(|| {
            assert!(clock.sleepers() > 0, "on purpose");
            async { Ok::<(), ()>(()) }
        });
        clock.block_on(call)
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_call_dropped_by_a_panic_elsewhere_counts_as_cancelled() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut call = pin!(breaker.call(pending::<Result<(), ()>>));
        assert!(poll_once(call.as_mut()).is_pending());
        panic!("elsewhere");
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Closed);
}
