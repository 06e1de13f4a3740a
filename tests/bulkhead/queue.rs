//! The wait queue: order, bounds, partitions, and CoDel.

use std::cell::RefCell;

use backstop::bulkhead::QueueOrder;
use backstop::{Bulkhead, Clock, Context, Error, ManualClock, Policy, Priority, Reason, Timeout};
use futures::future::{join, join_all, select};

use super::{ms, on, order_of, run};

#[test]
fn each_order_admits_waiters_as_documented() {
    let clock = ManualClock::new();
    let (low, normal, high) = (Priority::LOW, Priority::NORMAL, Priority::HIGH);
    let work = [(100, normal), (1, normal), (1, high), (1, low), (1, high)];
    for (order, expected) in [
        (QueueOrder::Fifo, [0, 1, 2, 3, 4]),
        (QueueOrder::Lifo, [0, 4, 3, 2, 1]),
        (QueueOrder::Priority, [0, 2, 4, 1, 3]),
    ] {
        let bulkhead = on(&clock)
            .max_concurrent(1)
            .max_waiting(10)
            .order(order)
            .build();
        assert_eq!(order_of(&bulkhead.unwrap(), &clock, &work), expected);
    }
}

#[test]
fn the_wait_queue_and_the_wait_are_bounded() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(1)
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
    assert_eq!((snapshot.rejected, snapshot.timed_out), (1, 1));
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
}

#[test]
fn a_deadline_ends_the_wait_before_max_wait() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(9)
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
    // After its deadline a call does not join the queue.
    let rejected = clock.block_on(bulkhead.acquire_with(cx)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_dropped_call_leaves_the_wait_queue() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).max_waiting(9).build().unwrap();
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
fn no_call_overtakes_the_waiters() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).max_waiting(9).build().unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let wait = async {
        let _permit = bulkhead.acquire().await.unwrap();
        clock.sleep(ms(10)).await;
    };
    let overtake = async {
        clock.sleep(ms(1)).await;
        drop(permit);
        // The permit belongs to the waiter, which has not been polled since.
        assert!(bulkhead.try_acquire().is_err());
        assert_eq!(bulkhead.snapshot().in_flight, 1);
    };
    run(&clock, join(wait, overtake));
}

#[test]
fn dropping_a_large_waiter_admits_smaller_ones_behind_it() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(10)
        .max_waiting(9)
        .build()
        .unwrap();
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
fn partitions_borrow_free_permits_and_get_their_share_back_first() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(10)
        .max_waiting(10)
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

    // Batch calls wait first, but released permits go to the partition below its share.
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
fn shares_may_exceed_the_limit_if_configured() {
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
fn codel_drops_stale_waiters_and_admits_the_newest_first() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(1000)
        .codel_default()
        .build()
        .unwrap();
    // One call per millisecond for a second. Each takes 2 ms, which is twice the capacity.
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
    // After the first intervals no admitted call has waited for long, and no capacity was lost.
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
fn codel_can_be_changed_live() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(1000)
        .codel_default()
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
