//! Settings, defaults, reports, and text.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::bulkhead::limit::{ConcurrencyLimit, Fixed};
use backstop::bulkhead::{BulkheadBuilder, QueueOrder};
use backstop::{Bulkhead, Event, ManualClock, Pipeline, Policy, Reason};

use super::{ms, on};

#[test]
fn the_defaults_are_25_permits_and_no_wait_queue() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).build().unwrap();
    assert_eq!(bulkhead.limit(), 25);
    let permits: Vec<_> = (0..25).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let rejected = clock.block_on(bulkhead.acquire()).unwrap_err();
    assert_eq!(rejected.reason(), Reason::BulkheadFull, "there is no queue");
    drop(permits);
}

#[test]
fn shadow_mode_rejects_no_call_and_counts() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .shadow(true)
        .name("shy")
        .build()
        .unwrap();
    let pipeline = Pipeline::new(bulkhead.clone())
        .observer(move |event: &Event| log.lock().unwrap().push(event.kind()));
    let _permit = bulkhead.try_acquire().unwrap();
    assert!(bulkhead.try_acquire().is_ok());
    let result = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(result, Ok(()));
    assert_eq!(bulkhead.snapshot().would_reject, 2);
    assert_eq!(bulkhead.snapshot().in_flight, 1);
    assert_eq!(*heard.lock().unwrap(), ["would_reject", "call_finished"]);
}

#[test]
fn observers_get_rejections_and_limit_changes() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .name("db")
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let _ = bulkhead.try_acquire();
    // The same limit again is no change.
    for limit in [1, 3, 3, u32::MAX, 1 << 31, 1] {
        bulkhead.set_limit(limit).unwrap();
    }
    assert_eq!(bulkhead.set_limit(0).unwrap_err().setting(), "set_limit");
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "db: rejected a call: bulkhead full",
            "db: limit changed from 1 to 3",
            "db: limit changed from 3 to 2147483647",
            "db: limit changed from 2147483647 to 1"
        ]
    );
}

#[test]
fn invalid_settings_are_errors() {
    let table: Vec<(&str, BulkheadBuilder)> = vec![
        ("max_concurrent", Bulkhead::builder().max_concurrent(0)),
        (
            "codel",
            Bulkhead::builder()
                .max_waiting(1)
                .codel_default()
                .max_wait(Duration::ZERO),
        ),
        (
            "order",
            Bulkhead::builder()
                .max_waiting(1)
                .order(QueueOrder::Lifo)
                .max_wait(Duration::ZERO),
        ),
        ("max_wait", Bulkhead::builder().max_wait(ms(1))),
        ("seed", Bulkhead::builder().seed(1)),
        (
            "cancel_is_overload",
            Bulkhead::builder().cancel_is_overload(false),
        ),
        ("order", Bulkhead::builder().order(QueueOrder::Lifo)),
        ("codel", Bulkhead::builder().codel_default()),
        (
            "codel",
            Bulkhead::builder().max_waiting(1).codel(ms(0), ms(1)),
        ),
        (
            "codel",
            Bulkhead::builder().max_waiting(1).codel(ms(2), ms(1)),
        ),
        (
            "codel",
            Bulkhead::builder().max_waiting(1).codel(ms(1), ms(1)),
        ),
        (
            "codel",
            Bulkhead::builder()
                .max_waiting(1)
                .codel_default()
                .order(QueueOrder::Lifo),
        ),
        ("partition", Bulkhead::builder().partition("a", 0.0)),
        ("partition", Bulkhead::builder().partition("a", f64::NAN)),
        (
            "partition",
            Bulkhead::builder().partition("a", f64::INFINITY),
        ),
        (
            "partition",
            Bulkhead::builder().partition("a", 0.6).partition("b", 0.6),
        ),
        (
            "partition",
            Bulkhead::builder().partition("a", 0.1).partition("a", 0.1),
        ),
        (
            "shares_may_exceed",
            Bulkhead::builder().shares_may_exceed(true),
        ),
    ];
    for (setting, builder) in table {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
}

#[test]
fn extreme_settings_work() {
    let clock = ManualClock::new();
    let builders: [BulkheadBuilder; 3] = [
        on(&clock).max_concurrent(u32::MAX),
        on(&clock).max_waiting(usize::MAX).max_wait(Duration::MAX),
        on(&clock)
            .max_waiting(1)
            .codel(Duration::MAX / 2, Duration::MAX),
    ];
    for builder in builders {
        let bulkhead = builder.build().unwrap();
        assert!(clock.block_on(bulkhead.acquire()).is_ok());
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
}

#[test]
fn new_takes_a_limit_of_zero_as_one() {
    assert_eq!(Bulkhead::new(0).snapshot().limit, 1);
    assert_eq!(Fixed::new(0).limit(), 1);
}

#[test]
fn orders_have_labels_and_words() {
    let text = |order: QueueOrder| (order.as_str(), order.to_string());
    assert_eq!(
        text(QueueOrder::Fifo),
        ("fifo", "first in, first out".into())
    );
    assert_eq!(
        text(QueueOrder::Lifo),
        ("lifo", "last in, first out".into())
    );
    assert_eq!(
        text(QueueOrder::Priority),
        ("priority", "by priority".into())
    );
}

#[test]
fn debug_prints_limits_and_costs_for_people() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(5).name("db").build().unwrap();
    let permit = bulkhead.try_acquire_n(2).unwrap();
    assert_eq!(
        format!("{permit:?}"),
        "Permit { bulkhead: \"db\", cost: 2 }"
    );
    let text = format!("{bulkhead:?}");
    assert!(text.contains("limit: 5, in_flight: 2"), "{text}");
    // No packed words, and no sentinels.
    let builder = format!("{:?}", Bulkhead::builder());
    assert!(!builder.contains("18446744073709551615"), "{builder}");
}

#[test]
fn a_builder_with_an_algorithm_can_be_cloned() {
    let clock = ManualClock::new();
    let aimd = backstop::bulkhead::limit::Aimd::builder().initial(10);
    let builder = on(&clock).adaptive(aimd.build().unwrap());
    let (first, second) = (builder.clone().build().unwrap(), builder.build().unwrap());
    first.try_acquire().unwrap().overloaded();
    assert_eq!((first.limit(), second.limit()), (9, 10));
}
