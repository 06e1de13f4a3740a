//! The bulkhead as its users see it.
#![cfg(feature = "tokio")]

mod adaptive;
mod extreme_values;
mod guards;
mod model;
mod options;
mod pitfalls;
#[path = "../../examples/overload/server.rs"]
mod server;
mod shares;
mod storm;
mod stress;
mod user_code;
#[path = "../values/mod.rs"]
mod values;
mod wakers;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::bulkhead::limit::Fixed;
use backstop::bulkhead::{BulkheadBuilder, QueueOrder};
use backstop::{
    Bulkhead, Clock, Context, Error, Event, ManualClock, Pipeline, Policy, Priority, Reason,
    Timeout,
};
use futures::future::{Either, join, join_all, select};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on(clock: &ManualClock) -> BulkheadBuilder {
    Bulkhead::builder().clock(clock.clone())
}

/// Runs a future on the clock, and fails where it would wait for ever: who is in line has given its
/// waker away, which a clock by itself has to take for hope.
fn run<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    clock.block_on(async {
        match select(pin!(future), pin!(clock.sleep(FOR_EVER))).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => panic!("nobody wakes it"),
        }
    })
}

/// Runs calls that begin 1 ms apart, each holding its permit for `work`; who ran, in what order.
fn order_of(bulkhead: &Bulkhead, clock: &ManualClock, work: &[(u64, Priority)]) -> Vec<usize> {
    let order = RefCell::new(Vec::new());
    run(
        clock,
        join_all(work.iter().enumerate().map(|(index, (millis, priority))| {
            let (order, clock) = (&order, clock.clone());
            async move {
                clock.sleep(ms(index as u64)).await;
                let cx = Context::new().with_priority(*priority);
                let Ok(_permit) = bulkhead.acquire_with(cx).await else {
                    return;
                };
                order.borrow_mut().push(index);
                clock.sleep(ms(*millis)).await;
            }
        })),
    );
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    assert_eq!(bulkhead.snapshot().queued, 0);
    order.into_inner()
}

#[test]
fn refuses_when_full_and_admits_when_a_permit_comes_back() {
    let bulkhead = Bulkhead::builder().max_concurrent(2).build().unwrap();
    let first = bulkhead.try_acquire().unwrap();
    let _second = bulkhead.try_acquire().unwrap();
    let rejected = bulkhead.try_acquire().unwrap_err();
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    assert_eq!(rejected.to_string(), "rejected by bulkhead: bulkhead full");
    drop(first);
    assert!(bulkhead.try_acquire().is_ok());
    assert_eq!(bulkhead.snapshot().refused, 1);
}

#[test]
fn defaults() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).build().unwrap();
    assert_eq!(bulkhead.limit(), 25);
    let permits: Vec<_> = (0..25).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let rejected = clock.block_on(bulkhead.acquire()).unwrap_err();
    assert_eq!(rejected.reason(), Reason::BulkheadFull, "there is no queue");
    drop(permits);
}

#[test]
fn owned_permits_outlive_the_handle() {
    let bulkhead = Bulkhead::builder().max_concurrent(1).build().unwrap();
    let permit = bulkhead.clone().try_acquire_owned(Context::new()).unwrap();
    let watch = bulkhead.clone();
    drop(bulkhead);
    let moved = std::thread::spawn(move || permit.cost()).join().unwrap();
    assert_eq!((moved, watch.snapshot().in_flight), (1, 0));
}

#[test]
fn each_order_serves_whom_it_says() {
    let clock = ManualClock::new();
    let (low, normal, high) = (Priority::LOW, Priority::NORMAL, Priority::HIGH);
    let work = [(100, normal), (1, normal), (1, high), (1, low), (1, high)];
    for (order, expected) in [
        (QueueOrder::Fifo, [0, 1, 2, 3, 4]),
        (QueueOrder::Lifo, [0, 4, 3, 2, 1]),
        (QueueOrder::Priority, [0, 2, 4, 1, 3]),
    ] {
        let bulkhead = on(&clock).max_concurrent(1).queue(10).order(order).build();
        assert_eq!(order_of(&bulkhead.unwrap(), &clock, &work), expected);
    }
}

#[test]
fn the_line_is_bounded_and_so_is_the_wait() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(1)
        .max_wait(ms(50))
        .build()
        .unwrap();
    let reason = |result: Result<_, Error<()>>| result.map_err(|error| error.reason().unwrap());
    let call = || async {
        let started = clock.now();
        let work = || async {
            clock.sleep(ms(100)).await;
            Ok::<_, ()>(())
        };
        let result = reason(bulkhead.call(work).await);
        (result, clock.now().saturating_duration_since(started))
    };
    let results = run(&clock, join_all([call(), call(), call()]));
    assert_eq!(
        results,
        [
            (Ok(()), ms(100)),
            (Err(Reason::QueueTimeout), ms(50)),
            (Err(Reason::BulkheadFull), ms(0)),
        ]
    );
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.refused, snapshot.timed_out), (1, 1));
    assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
}

#[test]
fn a_deadline_ends_the_wait_before_its_time() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(9)
        .max_wait(ms(50))
        .build()
        .unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let mut cx = Context::new();
    let handle = clock.clone().into();
    let deadline = cx.now(&handle) + ms(20);
    cx.tighten(&handle, deadline);
    let rejected = clock.block_on(bulkhead.acquire_with(cx)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
    assert_eq!(clock.now(), deadline);
    // Past its deadline it does not even line up.
    let rejected = clock.block_on(bulkhead.acquire_with(cx)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_call_waits_only_while_somebody_waits_for_it() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).queue(9).build().unwrap();
    let timeout = Timeout::builder()
        .after(ms(20))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (timeout, bulkhead.clone());
    let permit = bulkhead.try_acquire().unwrap();
    let error = clock
        .block_on(stack.call(|| async { Ok::<_, ()>(()) }))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineTooClose));
    drop(permit);
    assert_eq!(
        clock.block_on(stack.call(|| async { Ok::<_, ()>(()) })),
        Ok(())
    );
}

#[test]
fn nobody_overtakes_those_in_line() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).queue(9).build().unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let wait = async {
        let _permit = bulkhead.acquire().await.unwrap();
        clock.sleep(ms(10)).await;
    };
    let overtake = async {
        clock.sleep(ms(1)).await;
        drop(permit);
        // The permit has gone to the one in line, who has not been polled since.
        assert!(bulkhead.try_acquire().is_err());
        assert_eq!(bulkhead.snapshot().in_flight, 1);
    };
    run(&clock, join(wait, overtake));
}

#[test]
fn costs_count_and_too_much_is_said_at_once() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(10).queue(9).build().unwrap();
    let cost = |cost| Context::new().with_cost(cost);
    let seven = bulkhead.try_acquire_with(cost(7)).unwrap();
    assert!(bulkhead.try_acquire_with(cost(4)).is_err());
    let three = bulkhead.try_acquire_with(cost(3)).unwrap();
    let free = bulkhead.try_acquire_with(cost(0)).unwrap();
    assert_eq!(bulkhead.snapshot().in_flight, 10);
    let rejected = clock.block_on(bulkhead.acquire_with(cost(11))).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
    let rejected = bulkhead.try_acquire_with(cost(u32::MAX)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);

    // A large one in line is not starved by small ones behind it.
    let order = RefCell::new(Vec::new());
    let large = async {
        let _permit = bulkhead.acquire_with(cost(8)).await.unwrap();
        order.borrow_mut().push("large");
        clock.sleep(ms(1)).await;
    };
    let small = async {
        let _permit = bulkhead.acquire().await.unwrap();
        order.borrow_mut().push("small");
    };
    let release = async {
        drop(three);
        clock.sleep(ms(5)).await;
        drop((seven, free));
    };
    run(&clock, join(join(large, small), release));
    assert_eq!(*order.borrow(), ["large", "small"]);
}

#[test]
fn a_dropped_waiter_lets_smaller_ones_pass() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(10).queue(9).build().unwrap();
    let _nine = bulkhead
        .try_acquire_with(Context::new().with_cost(9))
        .unwrap();
    let large = async {
        let large = bulkhead.acquire_with(Context::new().with_cost(5));
        select(Box::pin(large), Box::pin(clock.sleep(ms(5)))).await;
    };
    let small = async {
        let _permit = bulkhead.acquire().await.unwrap();
        clock.now()
    };
    let (_, at) = run(&clock, join(large, small));
    assert_eq!(at.as_nanos(), 5_000_000);
}

#[test]
fn partitions_borrow_what_is_free_and_get_theirs_back_first() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(10)
        .queue(10)
        .partition("batch", 0.3)
        .partition("live", 0.7)
        .build()
        .unwrap();
    let (batch, live) = (
        bulkhead.partition("batch").unwrap(),
        bulkhead.partition("live").unwrap(),
    );
    assert!(bulkhead.partition("nobody").is_none());
    let mut borrowed: Vec<_> = (0..10).map(|_| batch.try_acquire().unwrap()).collect();
    assert!(batch.try_acquire().is_err());
    assert!(live.try_acquire().is_err(), "the limit holds");
    let snapshot = bulkhead.snapshot();
    assert_eq!(snapshot.partitions[0].in_flight, 10);
    assert_eq!(snapshot.partitions[1].guaranteed, 7);

    // Batch calls wait first, but what comes back goes to the one below its share.
    let order = RefCell::new(Vec::new());
    let wait = |name, handle: Bulkhead| {
        let order = &order;
        async move {
            let _permit = handle.acquire().await.unwrap();
            order.borrow_mut().push(name);
        }
    };
    let waits = join_all([wait("batch", batch.clone()), wait("live", live.clone())]);
    let release = async {
        clock.sleep(ms(1)).await;
        borrowed.pop();
        clock.sleep(ms(1)).await;
        borrowed.clear();
    };
    run(&clock, join(waits, release));
    assert_eq!(*order.borrow(), ["live", "batch"]);
    let snapshot = bulkhead.snapshot();
    assert_eq!(snapshot.in_flight, 0);
    assert!(
        snapshot
            .partitions
            .iter()
            .all(|partition| partition.in_flight == 0)
    );
}

#[test]
fn shares_may_exceed_the_limit_when_told_so() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(10)
        .partition("batch", 0.3)
        .partition("live", 0.7)
        .shares_may_exceed(true)
        .build()
        .unwrap();
    let batch = bulkhead.partition("batch").unwrap();
    let live = bulkhead.partition("live").unwrap();
    let borrowed: Vec<_> = (0..10).map(|_| batch.try_acquire().unwrap()).collect();
    let own: Vec<_> = (0..7).map(|_| live.try_acquire().unwrap()).collect();
    assert!(live.try_acquire().is_err());
    assert_eq!(bulkhead.snapshot().in_flight, 17);
    drop((borrowed, own));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[test]
fn codel_drops_the_stale_and_serves_the_newest() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(1000)
        .codel_defaults()
        .build()
        .unwrap();
    // One call a millisecond for a second; each takes 2 ms: twice what there is room for.
    let waits = RefCell::new(Vec::new());
    let dropped = RefCell::new(0);
    run(
        &clock,
        join_all((0..1000).map(|index| {
            let (bulkhead, clock, waits, dropped) = (&bulkhead, &clock, &waits, &dropped);
            async move {
                clock.sleep(ms(index)).await;
                let since = clock.now();
                match bulkhead.acquire().await {
                    Ok(_permit) => {
                        waits
                            .borrow_mut()
                            .push(clock.now().saturating_duration_since(since));
                        clock.sleep(ms(2)).await;
                    }
                    Err(rejected) => {
                        assert_eq!(rejected.reason(), Reason::QueueTimeout);
                        *dropped.borrow_mut() += 1;
                    }
                }
            }
        })),
    );
    let waits = waits.into_inner();
    // After the first intervals nobody who is served has waited long, and no capacity was lost.
    let late = &waits[200..];
    assert!(
        late.iter().all(|wait| *wait <= ms(20)),
        "{:?}",
        late.iter().max()
    );
    assert!(waits.len() >= 490, "{}", waits.len());
    assert_eq!(waits.len() + *dropped.borrow(), 1000);
}

#[test]
fn codel_can_be_retuned() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(1000)
        .codel_defaults()
        .build()
        .unwrap();
    assert_eq!(
        bulkhead.set_codel(ms(110), ms(100)).unwrap_err().setting(),
        "codel"
    );
    assert_eq!(
        bulkhead.set_codel(ms(0), ms(100)).unwrap_err().setting(),
        "codel"
    );
    // A wait that 5 ms would not tolerate.
    bulkhead.set_codel(ms(50), ms(100)).unwrap();
    let work: Vec<_> = (0..200).map(|_| (2, Priority::NORMAL)).collect();
    assert_eq!(order_of(&bulkhead, &clock, &work[..40]).len(), 40);
    assert!(order_of(&bulkhead, &clock, &work).len() < 200);
    assert!((0.0..=1.0).contains(&bulkhead.snapshot().queue_load));
    let without = on(&clock).build().unwrap();
    assert!(without.set_codel(ms(5), ms(100)).is_err());
}

#[test]
fn a_resize_takes_effect_at_once() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).queue(9).build().unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let wait = async {
        let _permit = bulkhead.acquire().await.unwrap();
        clock.now()
    };
    let grow = async {
        clock.sleep(ms(5)).await;
        bulkhead.set_limit(2);
    };
    let (at, ()) = run(&clock, join(wait, grow));
    assert_eq!(at.as_nanos(), 5_000_000);
    for (to, limit) in [(0, 1), (u32::MAX, (1 << 31) - 1), (7, 7)] {
        bulkhead.set_limit(to);
        assert_eq!(bulkhead.limit(), limit);
    }
}

#[test]
fn shadow_refuses_nobody_and_counts() {
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
    assert_eq!(bulkhead.snapshot().would_refuse, 2);
    assert_eq!(bulkhead.snapshot().in_flight, 1);
    assert_eq!(*heard.lock().unwrap(), ["would_reject", "call_finished"]);
}

#[test]
fn observers_hear_refusals_and_changes() {
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
    // What changes nothing is no change.
    for limit in [0, 1, 3, 3, u32::MAX, 1 << 31, 0] {
        bulkhead.set_limit(limit);
    }
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
fn a_share_is_rounded_up_from_what_was_written() {
    for percent in 1..=100_u32 {
        let bulkhead = Bulkhead::builder()
            .max_concurrent(100)
            .partition("some", f64::from(percent) / 100.0)
            .build()
            .unwrap();
        for (limit, guaranteed) in [(100, percent), (1000, 10 * percent), (1, 1)] {
            bulkhead.set_limit(limit);
            assert_eq!(bulkhead.snapshot().partitions[0].guaranteed, guaranteed);
        }
        bulkhead.set_limit(10);
        assert_eq!(
            bulkhead.snapshot().partitions[0].guaranteed,
            percent.div_ceil(10)
        );
    }
}

#[test]
fn a_panic_gives_the_permit_back() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).adaptive(Fixed::new(1)).build().unwrap();
    for early in [true, false] {
        let call = std::panic::AssertUnwindSafe(|| {
            let work = || {
                assert!(!early, "before the first await");
                async { panic!("after it") }
            };
            clock.block_on(bulkhead.call(work)) as Result<(), Error<()>>
        });
        assert!(std::panic::catch_unwind(call).is_err());
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
}

#[test]
fn it_serves_programs_without_a_runtime() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .queue(10)
        // Who is forgotten in line fails, instead of waiting for ever.
        .max_wait(Duration::from_secs(60))
        .clock(backstop::BlockingClock)
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(bulkhead.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
                }
            });
        }
    });
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[test]
fn settings_without_meaning_are_refused() {
    let table: Vec<(&str, BulkheadBuilder)> = vec![
        ("max_concurrent", Bulkhead::builder().max_concurrent(0)),
        (
            "max_wait",
            Bulkhead::builder().queue(1).max_wait(Duration::ZERO),
        ),
        ("max_wait", Bulkhead::builder().max_wait(ms(1))),
        ("order", Bulkhead::builder().order(QueueOrder::Lifo)),
        ("codel", Bulkhead::builder().codel_defaults()),
        ("codel", Bulkhead::builder().queue(1).codel(ms(0), ms(1))),
        ("codel", Bulkhead::builder().queue(1).codel(ms(2), ms(1))),
        ("codel", Bulkhead::builder().queue(1).codel(ms(1), ms(1))),
        (
            "codel",
            Bulkhead::builder()
                .queue(1)
                .codel_defaults()
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
fn extreme_settings_do_what_they_say() {
    let clock = ManualClock::new();
    let builders: [BulkheadBuilder; 3] = [
        on(&clock).max_concurrent(u32::MAX),
        on(&clock).queue(usize::MAX).max_wait(Duration::MAX),
        on(&clock).queue(1).codel(Duration::MAX / 2, Duration::MAX),
    ];
    for builder in builders {
        let bulkhead = builder.build().unwrap();
        assert!(clock.block_on(bulkhead.acquire()).is_ok());
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
    assert_eq!(Bulkhead::new(0).limit(), 1);
}
