//! How processes share permits that are scarce.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::shared_bulkhead::Permit;

use super::fleet;

#[test]
fn a_process_whose_calls_need_all_permits_shares_them_with_the_others() {
    let (clock, _store, fleet) = fleet(4, 40);
    let mut permits: Vec<Vec<Permit>> = (0..4).map(|_| Vec::new()).collect();
    let mut in_use = 0;
    for step in 0..10_000 {
        for (at, bulkhead) in fleet.iter().enumerate() {
            // The first one is alone for a second, and has all permits.
            if at > 0 && step < 1000 {
                continue;
            }
            // A call takes about 20 ms, and further ones come all the time.
            let done = permits[at].len().div_ceil(20);
            permits[at].drain(..done);
            for _ in 0..3 {
                permits[at].extend(clock.block_on(bulkhead.try_acquire()).ok());
            }
        }
        let counts: Vec<usize> = permits.iter().map(Vec::len).collect();
        assert!(counts.iter().sum::<usize>() <= 40, "{counts:?}");
        if step == 999 {
            assert!(counts[0] >= 38, "{counts:?}");
        }
        if step >= 6000 {
            assert!(
                counts.iter().all(|count| (5..=15).contains(count)),
                "{step}: {counts:?}"
            );
            in_use += counts.iter().sum::<usize>();
        }
        clock.advance(Duration::from_millis(1));
    }
    let used = in_use as f64 / 4000.0 / 40.0;
    assert!(used >= 0.9, "{used} of the limit");
}

/// Each process holds some permits, and none holds as many as its call costs.
#[test]
fn calls_of_several_processes_that_cost_more_than_their_parts_all_run() {
    let (clock, _store, fleet) = fleet(3, 10);
    for bulkhead in &fleet {
        drop(clock.block_on(bulkhead.try_acquire_n(3)));
    }
    let held: Vec<u64> = fleet.iter().map(|it| it.snapshot().held).collect();
    assert!(held.iter().all(|held| (1..8).contains(held)), "{held:?}");
    let mut waiting: Vec<_> = fleet
        .iter()
        .flat_map(|it| [8, 1, 6].map(|cost| Box::pin(it.acquire_n(cost))))
        .collect();
    for _ in 0..400 {
        waiting.retain_mut(|call| {
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            // The permit is dropped at once.
            polled.is_pending()
        });
        if waiting.is_empty() {
            return;
        }
        clock.advance(Duration::from_millis(25));
    }
    panic!("{} calls wait after 10 s: {fleet:?}", waiting.len());
}

#[test]
fn a_cheap_call_does_not_overtake_a_waiter() {
    let (clock, _store, fleet) = fleet(1, 4);
    let bulkhead = &fleet[0];
    let permit = clock.block_on(bulkhead.acquire_n(3)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = Box::pin(bulkhead.acquire_n(2));
    assert!(first.as_mut().poll(&mut cx).is_pending());
    let mut second = Box::pin(bulkhead.acquire_n(1));
    for _ in 0..100 {
        clock.advance(Duration::from_millis(1));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
    }
    drop(permit);
    assert!(clock.block_on(first).is_ok());
    assert!(clock.block_on(second).is_ok());
}
