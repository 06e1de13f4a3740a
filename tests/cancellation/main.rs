//! Every public future is dropped at every await, and every operation panics at every poll: nothing
//! stays behind.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use backstop::Policy;

mod futures;
mod wakers;
#[path = "../watchdog/mod.rs"]
mod watchdog;
mod world;

use self::futures::FUTURES;
use self::world::{STEP, World};

/// Polls up to `times` times, and lets a step of time pass after each.
fn poll(world: &World, mut future: Pin<&mut dyn Future<Output = ()>>, times: u32) -> Poll<()> {
    for _ in 0..times {
        let mut cx = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut cx).is_ready() {
            return Poll::Ready(());
        }
        world.clock.advance(STEP);
    }
    Poll::Pending
}

/// More polls than any of the futures takes.
const ENOUGH: u32 = 1000;

#[test]
fn a_future_dropped_at_any_await_leaves_nothing_behind() {
    for (name, make) in FUTURES {
        let mut awaits = 0;
        for polls in 0..ENOUGH {
            let world = World::new();
            let mut future = make(&world);
            let ended = poll(&world, future.as_mut(), polls).is_ready();
            drop(future);
            world.assert_nothing_is_left(&format!("{name} dropped after {polls} polls"));
            if ended {
                break;
            }
            awaits += 1;
        }
        assert!((1..ENOUGH).contains(&awaits), "{name}: {awaits}");
    }
}

#[test]
fn an_operation_that_panics_at_any_poll_leaves_nothing_behind() {
    for (name, make) in FUTURES {
        for polls in 0..ENOUGH {
            let world = World::new();
            world.fuse.set(polls);
            let ended = {
                let mut future = make(&world);
                catch_unwind(AssertUnwindSafe(|| {
                    poll(&world, future.as_mut(), ENOUGH).is_ready()
                }))
            };
            world.assert_nothing_is_left(&format!("{name} with a panic at poll {polls}"));
            match ended {
                Ok(ended) => {
                    assert!(ended, "{name} does not end");
                    break;
                }
                Err(panic) => assert_eq!(panic.downcast_ref(), Some(&"boom"), "{name}"),
            }
        }
    }
}

#[test]
fn a_handle_works_as_before_after_a_panic() {
    let world = World::new();
    let stack = (
        world.timeout(9),
        world.retry(),
        world.bulkhead.clone(),
        world.timeout(3),
    );
    world.fuse.set(2);
    let call = || stack.call_reported(|| world.operation());
    let panic = catch_unwind(AssertUnwindSafe(|| world.clock.block_on(call())));
    assert!(panic.is_err());
    world.fuse.set(u32::MAX);
    let report = world.clock.block_on(call());
    assert_eq!((report.attempts, report.elapsed), (3, STEP * 5));
}

#[test]
fn many_calls_dropped_half_way_share_a_budget_that_ends_empty() {
    let world = World::new();
    let retry = world.retry();
    let mut calls: Vec<_> = (0..100)
        .map(|_| {
            Box::pin(async {
                let _ = retry.call(|| world.operation()).await;
            })
        })
        .collect();
    for (index, call) in calls.iter_mut().enumerate() {
        let _ = poll(&world, call.as_mut(), index as u32 % 12);
    }
    assert!(world.budget.snapshot().calls_in_flight > 0);
    drop(calls);
    world.assert_nothing_is_left("after all were dropped");
}
