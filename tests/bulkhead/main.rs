//! Tests of the bulkhead through its public API.
#![cfg(feature = "tokio")]

mod adaptive;
mod configuration;
mod extreme_values;
mod guards;
mod model;
mod options;
mod pitfalls;
mod queue;
#[path = "../simulated_server/mod.rs"]
mod server;
mod shares;
mod storm;
mod stress;
mod user_code;
#[path = "../values/mod.rs"]
mod values;
mod wakers;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use backstop::bulkhead::BulkheadBuilder;
use backstop::bulkhead::limit::Fixed;
use backstop::{Bulkhead, Clock, Context, Error, ManualClock, Policy, Priority, Reason};
use futures::future::{Either, join, join_all, select};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on(clock: &ManualClock) -> BulkheadBuilder {
    Bulkhead::builder().clock(clock.clone())
}

/// Runs a future on the clock, and fails if it waits forever. `block_on` alone cannot tell: a waiter has registered its
/// waker, so it might still be woken.
fn run<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    clock.block_on(async {
        match select(pin!(future), pin!(clock.sleep(FOR_EVER))).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => panic!("it waits forever"),
        }
    })
}

/// Runs calls that start 1 ms apart, each of which holds its permit for `work`. Returns the order in which they ran.
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
    assert_eq!(bulkhead.snapshot().waiting, 0);
    order.into_inner()
}

#[test]
fn a_full_bulkhead_rejects_until_a_permit_is_released() {
    let bulkhead = Bulkhead::builder().max_concurrent(2).build().unwrap();
    let first = bulkhead.try_acquire().unwrap();
    let _second = bulkhead.try_acquire().unwrap();
    let rejected = bulkhead.try_acquire().unwrap_err();
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    assert_eq!(rejected.to_string(), "rejected by bulkhead: bulkhead full");
    drop(first);
    assert!(bulkhead.try_acquire().is_ok());
    assert_eq!(bulkhead.snapshot().rejected, 1);
}

#[test]
fn waiting_for_an_owned_permit_borrows_nothing_and_keeps_the_handle() {
    fn spawned<F: Future + Send + 'static>(future: F) -> F {
        future
    }
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).build().unwrap();
    let acquire = spawned(bulkhead.acquire_owned(Context::new()));
    let permit = clock.block_on(acquire).unwrap();
    assert_eq!(bulkhead.snapshot().in_flight, 1);
    drop(permit);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
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
fn costs_count_and_a_cost_above_the_limit_is_rejected_immediately() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(10)
        .max_waiting(9)
        .build()
        .unwrap();
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

    // Small waiters do not starve a large one in front of them.
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
fn a_new_limit_holds_immediately() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(1).max_waiting(9).build().unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let wait = async {
        let _permit = bulkhead.acquire().await.unwrap();
        clock.now()
    };
    let grow = async {
        clock.sleep(ms(5)).await;
        bulkhead.set_limit(2).unwrap();
    };
    let (at, ()) = run(&clock, join(wait, grow));
    assert_eq!(at.as_nanos(), 5_000_000);
    for (to, limit) in [(1, 1), (u32::MAX, (1 << 31) - 1), (7, 7)] {
        bulkhead.set_limit(to).unwrap();
        assert_eq!(bulkhead.limit(), limit);
    }
}

#[test]
fn a_share_is_rounded_up_from_its_decimal_value() {
    for percent in 1..=100_u32 {
        let bulkhead = Bulkhead::builder()
            .max_concurrent(100)
            .partition("some", f64::from(percent) / 100.0)
            .build()
            .unwrap();
        for (limit, guaranteed) in [(100, percent), (1000, 10 * percent), (1, 1)] {
            bulkhead.set_limit(limit).unwrap();
            assert_eq!(bulkhead.snapshot().partitions[0].guaranteed, guaranteed);
        }
        bulkhead.set_limit(10).unwrap();
        assert_eq!(
            bulkhead.snapshot().partitions[0].guaranteed,
            percent.div_ceil(10)
        );
    }
}

#[test]
fn a_panic_releases_the_permit() {
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
fn it_works_without_a_runtime() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(10)
        // A lost wake-up fails the test instead of hanging it.
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
fn a_weight_is_taken_at_once_and_beyond_the_limit_rejected() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(5).max_waiting(1).build().unwrap();
    let heavy = bulkhead.try_acquire_n(4).unwrap();
    assert_eq!((heavy.cost(), bulkhead.snapshot().in_flight), (4, 4));
    let reason = |n| bulkhead.try_acquire_n(n).unwrap_err().reason();
    assert_eq!(reason(2), Reason::BulkheadFull);
    // Truncated to 32 bits, the second would be 1.
    for too_large in [6, (1 << 32) + 1, u64::MAX] {
        assert_eq!(reason(too_large), Reason::CostExceedsLimit);
        let waited = clock.block_on(bulkhead.acquire_n(too_large));
        assert_eq!(waited.unwrap_err().reason(), Reason::CostExceedsLimit);
    }
    let waited = run(&clock, async {
        let release = async {
            clock.sleep(ms(1)).await;
            drop(heavy);
        };
        join(bulkhead.acquire_n(5), release)
            .await
            .0
            .map(|permit| permit.cost())
    });
    assert_eq!(waited.unwrap(), 5);
}
