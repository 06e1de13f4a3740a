use std::cell::Cell;
use std::future::ready;
use std::sync::{Arc, Mutex};

use backstop::throttle::Load;
use backstop::{Event, Keyed, ManualClock, Pipeline, Policy, Reason, Retry};

use super::{builder, counts, fail, probability, strict};

#[test]
fn a_rejection_has_no_retry_after() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).name("users").build().unwrap();
    fail(&throttle, 100_000);
    let started = Cell::new(0);
    let error = loop {
        let call = throttle.call(|| {
            started.set(started.get() + 1);
            ready(Ok::<_, ()>(()))
        });
        if let Err(error) = clock.block_on(call) {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(Reason::Throttled));
    assert_eq!(error.retry_after(), None);
    assert_eq!(
        error.map(|()| "").to_string(),
        "rejected by users: throttled"
    );
    assert_eq!(started.get(), 0);
}

#[test]
fn shadow_mode_reports_rejections_and_admits_all_calls() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).shadow(true).build().unwrap();
    fail(&throttle, 100_000);
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let pipeline = Pipeline::new(throttle.clone())
        .observer(move |event: &Event| log.lock().unwrap().push(event.kind()));
    for _ in 0..10 {
        let result = clock.block_on(pipeline.call(|| ready(Ok::<_, ()>(()))));
        assert_eq!(result, Ok(()));
    }
    let kinds = events.lock().unwrap();
    let would = kinds.iter().filter(|kind| **kind == "would_reject");
    assert_eq!(would.count(), 10);
    let snapshot = throttle.snapshot();
    assert_eq!((snapshot.rejected, snapshot.would_reject), (0, 10));
    assert_eq!(counts(&throttle), (100_010, 10, 100_000, 0));
}

#[test]
fn rejected_calls_count_only_if_configured() {
    let clock = ManualClock::new();
    for (count, expected) in [(false, 100), (true, 150)] {
        let throttle = strict(&clock).success_threshold(0.001);
        let throttle = throttle.count_rejected(count).build().unwrap();
        fail(&throttle, 100);
        let mut rejected = 0;
        while rejected < 50 {
            rejected += u64::from(throttle.try_acquire().is_err());
        }
        assert_eq!(counts(&throttle), (expected, 0, expected, 0));
    }
}

#[test]
fn inside_a_retry_every_attempt_counts() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let retry = || Retry::builder().clock(clock.clone()).build().unwrap();
    let inside = Pipeline::new((retry(), throttle.clone()));
    let _ = clock.block_on(inside.call(|| ready(Err::<(), _>(()))));
    assert_eq!(counts(&throttle), (3, 0, 3, 0));
    assert_eq!(inside.check(), []);

    let outside = Pipeline::new((throttle, retry()));
    let found = outside.check();
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .to_string()
            .starts_with("layer 1 (retry) inside layer 0 (throttle): ")
    );
}

#[test]
fn loads_combine_weighted_by_requests() {
    let load = |calls, rejection_probability, max_rejection| Load {
        calls,
        rejection_probability,
        max_rejection,
    };
    assert_eq!(Load::combine([]), load(0, 0.0, 0.0));
    assert_eq!(Load::combine([load(0, 0.8, 0.7)]), load(0, 0.0, 0.7));
    let both = Load::combine([load(150, 0.6, 0.9), load(50, 0.1, 0.8)]);
    assert!((both.rejection_probability - 0.475).abs() < 1e-12);
    assert_eq!((both.calls, both.max_rejection), (200, 0.8));
    let full = load(u64::MAX, 1.0, 1.0);
    assert_eq!(Load::combine([full, full]), full);

    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    fail(&throttle, 20);
    assert_eq!(throttle.snapshot().load(), load(20, 0.9, 0.9));
}

#[test]
fn throttles_of_different_keys_are_independent() {
    let clock = ManualClock::new();
    let template = clock.clone();
    let keyed = Keyed::new(move |_: &u32| builder(&template).build().unwrap());
    fail(&keyed.get(&1), 20);
    assert_eq!(probability(&keyed.get(&1)), 0.9);
    assert_eq!(probability(&keyed.get(&2)), 0.0);
}
