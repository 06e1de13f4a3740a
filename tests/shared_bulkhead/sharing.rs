//! How processes share permits that are scarce.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::shared_bulkhead::Permit;
use backstop::store::{Fault, MemoryStore};
use backstop::{Event, ManualClock, SharedBulkhead};

use super::{Finish, fleet};

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
                permits[at].extend(clock.finish(bulkhead.try_acquire()).ok());
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
        drop(clock.finish(bulkhead.try_acquire_n(3)));
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

/// Runs calls of 20 ms for 20 s. Process `n` starts its next call `pause(n)` after the end of the last one, with
/// `calls` at a time. Returns the number of calls that each process has completed.
fn completed(processes: usize, limit: u64, calls: usize, pause: impl Fn(usize) -> u64) -> Vec<u64> {
    enum Slot<'a> {
        Pausing(u64),
        Waiting(std::pin::Pin<Box<backstop::shared_bulkhead::Acquire<'a>>>),
        Running { until: u64, _permit: Permit },
    }
    let (clock, _store, fleet) = fleet(processes, limit);
    let mut slots: Vec<(usize, Slot<'_>)> = (0..processes)
        .flat_map(|process| (0..calls).map(move |call| (process, call)))
        // The later ones find none left.
        .map(|(process, call)| (process, Slot::Pausing((500 * process + call) as u64)))
        .collect();
    let mut upkeep: Vec<_> = fleet.iter().map(|it| Box::pin(it.maintain())).collect();
    let mut done = vec![0; processes];
    let mut cx = Context::from_waker(Waker::noop());
    for now in 0..20_000 {
        for maintain in &mut upkeep {
            let _ = maintain.as_mut().poll(&mut cx);
        }
        for (process, slot) in &mut slots {
            if let Slot::Running { until, .. } = slot {
                if now >= *until {
                    done[*process] += 1;
                    *slot = Slot::Pausing(now + pause(*process));
                }
            }
            if let Slot::Pausing(until) = slot {
                if now >= *until {
                    *slot = Slot::Waiting(Box::pin(fleet[*process].acquire()));
                }
            }
            if let Slot::Waiting(call) = slot {
                if let std::task::Poll::Ready(permit) = call.as_mut().poll(&mut cx) {
                    *slot = Slot::Running {
                        until: now + 20,
                        _permit: permit.unwrap(),
                    };
                }
            }
        }
        let running = slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Running { .. }));
        assert!(running.count() as u64 <= limit);
        clock.advance(Duration::from_millis(1));
    }
    done
}

#[test]
fn an_uneven_limit_leaves_no_process_without_permits() {
    for (processes, limit) in [(2, 3), (3, 4), (3, 5), (4, 6), (5, 6), (5, 8)] {
        let done = completed(processes, limit, 6, |_| 0);
        let all: u64 = done.iter().sum();
        let most = limit * 20_000 / 20;
        assert!(all >= most * 3 / 4, "{processes} share {limit}: {done:?}");
        let part = all / processes as u64;
        assert!(
            done.iter().all(|it| (part / 2..=part * 2).contains(it)),
            "{processes} share {limit}: {done:?}"
        );
    }
}

#[test]
fn more_processes_than_permits_take_turns() {
    for (processes, limit) in [(2, 1), (3, 1), (5, 1), (3, 2), (6, 3), (4, 3)] {
        let done = completed(processes, limit, 3, |_| 0);
        let all: u64 = done.iter().sum();
        let most = limit * 20_000 / 20;
        assert!(all >= most / 2, "{processes} share {limit}: {done:?}");
        let part = all / processes as u64;
        assert!(
            done.iter().all(|it| (part / 2..=part * 2).contains(it)),
            "{processes} share {limit}: {done:?}"
        );
    }
}

/// The first process needs a permit for 20 ms in each second. The others need it all the time.
#[test]
fn a_process_with_few_calls_does_not_keep_the_only_permit() {
    let done = completed(2, 1, 1, |process| [980, 0][process]);
    assert!(done[0] >= 14 && done[1] >= 450, "{done:?}");
}

#[test]
fn the_limit_holds_again_once_a_store_that_lost_its_data_has_been_asked() {
    let (clock, store, fleet) = fleet(2, 4);
    let take = |at: usize| -> Vec<Permit> {
        let calls = (0..4).map(|_| clock.finish(fleet[at].try_acquire()));
        calls.filter_map(Result::ok).collect()
    };
    let mut permits = take(0);
    assert_eq!(permits.len(), 4);
    store.lose_memory();
    permits.extend(take(1));
    assert_eq!(
        permits.len(),
        8,
        "the store does not know of the first four"
    );
    clock.advance(super::TTL / 3);
    for bulkhead in &fleet {
        let mut maintain = Box::pin(bulkhead.maintain());
        let _ = maintain
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
    let held: u64 = fleet.iter().map(|it| it.snapshot().held).sum();
    assert_eq!(held, 4, "{fleet:?}");
}

#[test]
fn a_cheap_call_does_not_overtake_a_waiter() {
    let (clock, _store, fleet) = fleet(1, 4);
    let bulkhead = &fleet[0];
    let permit = clock.finish(bulkhead.acquire_n(3)).unwrap();
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
    assert!(clock.finish(first).is_ok());
    assert!(clock.finish(second).is_ok());
}

#[test]
fn a_process_that_ends_without_permits_leaves_nothing_in_the_store_either() {
    // It waited, and counted as one that needs its part of the limit.
    let (clock, store, mut processes) = fleet(2, 1);
    let permit = clock.block_on(processes[0].try_acquire()).unwrap();
    assert!(clock.block_on(processes[1].try_acquire()).is_err());
    drop(permit);
    drop(processes.remove(0));
    assert!(!store.is_empty());
    drop(processes);
    assert!(store.is_empty());

    // It was granted a permit, and the answer got lost.
    let (clock, store, processes) = fleet(1, 1);
    store.set_fault(Some(Fault::LoseReplies));
    assert!(clock.block_on(processes[0].try_acquire()).is_err());
    store.set_fault(None);
    assert!(!store.is_empty());
    drop(processes);
    assert!(store.is_empty());

    // It never needed the store.
    let (_clock, store, processes) = fleet(1, 1);
    drop(processes);
    assert_eq!(store.requests(), 0);
}

#[test]
fn in_shadow_mode_a_call_that_the_store_decides_has_not_waited() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    store.set_latency(Duration::from_millis(1));
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let bulkhead = SharedBulkhead::builder()
        .store(store)
        .key("key")
        .max_concurrent(2)
        .shadow(true)
        .max_waiting(9)
        .observer(move |event: &Event| heard.lock().unwrap().push(event.to_string()))
        .clock(clock.clone())
        .build()
        .unwrap();
    let permits: Vec<Permit> = (0..4)
        .map(|_| clock.block_on(bulkhead.acquire()).unwrap())
        .collect();
    assert_eq!(bulkhead.snapshot().in_flight, 2);
    drop(permits);
    let events = events.lock().unwrap();
    let would_reject = events.iter().filter(|event| event.contains("would"));
    assert_eq!((would_reject.count(), events.len()), (2, 2), "{events:?}");
}
