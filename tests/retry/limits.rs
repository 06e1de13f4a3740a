//! The ends of a call: its deadline, its longest time, and operations that must not run twice.

use std::cell::Cell;

use backstop::event::StopReason;
use backstop::{CallOptions, Classify, Error, ManualClock, Pipeline, Policy, Verdict};

use super::{doubling, elapsed, ms, s, stops, total};

#[test]
fn a_hint_beyond_the_deadline_fails_at_once() {
    let clock = ManualClock::new();
    let (kept, observer) = stops();
    let stack = Pipeline::new((
        total(&clock, s(10)),
        doubling(&clock).build().unwrap(),
        Classify::errors(|_: &&str| Verdict::throttled(s(60))),
    ))
    .observer(observer);
    assert_eq!(attempts_of!(&clock, &stack), [s(0)]);
    assert_eq!(elapsed(&clock), s(0));
    assert_eq!(*kept.lock().unwrap(), [StopReason::Deadline]);
}

#[test]
fn the_longest_time_includes_the_operations() {
    let clock = ManualClock::new();
    let retry = doubling(&clock)
        .max_attempts(100)
        .max_elapsed(s(10))
        .build()
        .unwrap();
    let attempts = Cell::new(0);
    let result: Result<(), _> = clock.block_on(retry.call(|| {
        attempts.set(attempts.get() + 1);
        let slow = clock.sleep(s(4));
        async move {
            slow.await;
            Err("down")
        }
    }));
    assert_eq!(result, Err(Error::Operation("down")));
    // Starts at 0, 4.1 and 8.3 s; a fourth would start at 12.7 s.
    assert_eq!(attempts.get(), 3);
    assert_eq!(elapsed(&clock), ms(12_300));
}

#[test]
fn never_sleeps_into_the_deadline() {
    let clock = ManualClock::new();
    let stack = (total(&clock, ms(300)), doubling(&clock).build().unwrap());
    // The third attempt would start at 300 ms exactly, when the time is up.
    assert_eq!(attempts_of!(&clock, &stack), [ms(0), ms(100)]);
    assert_eq!(elapsed(&clock), ms(100));
}

#[test]
fn a_call_that_must_not_run_twice_is_repeated_only_if_it_has_not_run() {
    let clock = ManualClock::new();
    let once = CallOptions::new().idempotent(false);
    let pipeline = Pipeline::new(doubling(&clock).build().unwrap());
    assert_eq!(attempts_of!(&clock, &pipeline.with(once)).len(), 1);

    let safe = Pipeline::new((
        doubling(&clock).build().unwrap(),
        Classify::errors(|_: &&str| Verdict::transient().not_executed()),
    ));
    assert_eq!(attempts_of!(&clock, &safe.with(once)).len(), 3);
}

#[test]
fn a_timeout_is_retried_only_when_that_is_safe() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new((doubling(&clock).build().unwrap(), total(&clock, s(1))));
    let hang = std::future::pending::<Result<(), ()>>;
    let report = clock.block_on(pipeline.call_reported(hang));
    assert!(report.result.unwrap_err().is_timeout());
    assert_eq!((report.attempts, report.elapsed), (3, ms(3300)));

    let once = CallOptions::new().idempotent(false);
    let report = clock.block_on(pipeline.with(once).call_reported(hang));
    assert_eq!((report.attempts, report.elapsed), (1, s(1)));
}
