use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use backstop::{Event, ManualClock};

use super::{MINUTE, SECOND, builder, counts, fail, strict};

#[test]
fn a_probe_is_admitted_if_no_call_was_for_a_while() {
    let clock = ManualClock::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let throttle = strict(&clock)
        .probe_every(SECOND)
        .name("users")
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    fail(&throttle, 100_000);
    // The first rejection, also in the first second of the clock.
    assert!(throttle.try_acquire().unwrap().is_probe());
    let mut probes = 0;
    for _ in 0..200 {
        clock.advance(SECOND / 20);
        if let Ok(permit) = throttle.try_acquire() {
            probes += 1;
            assert!(permit.is_probe());
            permit.failure();
        }
    }
    assert_eq!(probes, 10);
    let events = events.lock().unwrap();
    let forced = "users: admitted a call as a probe";
    assert_eq!(events.iter().filter(|event| *event == forced).count(), 11);
    assert_eq!(events[1], "users: rejected a call: throttled");
    assert_eq!(events.len(), 201);
}

#[test]
fn of_a_hundred_racing_threads_one_gets_the_probe() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).probe_every(SECOND).build().unwrap();
    fail(&throttle, 100_000);
    for _ in 0..20 {
        clock.advance(SECOND);
        let start = Barrier::new(100);
        let probes = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    start.wait();
                    if let Ok(permit) = throttle.try_acquire() {
                        assert!(permit.is_probe());
                        probes.fetch_add(1, Ordering::Relaxed);
                        permit.failure();
                    }
                });
            }
        });
        assert_eq!(probes.into_inner(), 1);
    }
}

#[test]
fn a_hanging_probe_does_not_delay_the_next() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).probe_every(SECOND).build().unwrap();
    clock.advance(10 * SECOND);
    fail(&throttle, 100_000);
    let hanging = throttle.try_acquire().unwrap();
    let mut probes = 0;
    for _ in 0..300 {
        clock.advance(SECOND / 10);
        probes += u32::from(throttle.try_acquire().is_ok_and(|permit| permit.is_probe()));
    }
    assert_eq!(probes, 30);
    drop(hanging);
    assert_eq!(counts(&throttle).3, 0);
}

#[test]
fn no_probe_is_forced_while_other_calls_are_admitted() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).max_rejection(0.5).build().unwrap();
    clock.advance(10 * SECOND);
    fail(&throttle, 100);
    let mut probes = 0;
    for _ in 0..1000 {
        clock.advance(SECOND / 100);
        probes += u32::from(throttle.try_acquire().is_ok_and(|permit| permit.is_probe()));
    }
    assert!(probes <= 1, "{probes}");
}

#[test]
fn an_observer_that_panics_at_a_probe_does_not_consume_it() {
    let clock = ManualClock::new();
    clock.advance(MINUTE);
    let throttle = builder(&clock)
        .success_threshold(1.0)
        .min_calls(1)
        .max_rejection(1.0)
        .observer(|event: &Event| {
            assert!(!matches!(event, Event::ProbeForced { .. }), "on purpose");
        })
        .build()
        .unwrap();
    fail(&throttle, 1000);
    // Each call would be a probe, and is not made because of the panic.
    for _ in 0..3 {
        let call = || throttle.try_acquire().map(|permit| permit.is_probe());
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        assert_eq!(throttle.snapshot().in_flight, 0);
    }
}
