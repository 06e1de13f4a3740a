//! Updates and drains.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use backstop::endpoints::{Endpoint, NodeState};
use backstop::{Endpoints, ManualClock, Policy};

use crate::{Heard, SECOND, builder, fail, ms, name, of, picks, rotating, state};

fn nodes(range: std::ops::Range<usize>) -> impl Iterator<Item = Endpoint<usize>> {
    range.map(|node| Endpoint::new(name(node), node))
}

#[test]
fn an_update_keeps_what_is_known_about_the_nodes_that_stay() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).build().unwrap();
    fail(&endpoints, 3, 5);
    let held: Vec<_> = (0..20).map(|_| endpoints.try_acquire().unwrap()).collect();
    let before = endpoints.snapshot();
    let list = nodes(2..12).map(|node| node.weight(2.0));
    let changes = endpoints.update(list).unwrap();
    assert_eq!((changes.added, changes.removed, changes.kept), (2, 2, 8));
    let after = endpoints.snapshot();
    for node in 2..10 {
        let (before, after) = (of(&before, node), of(&after, node));
        assert_eq!((after.weight, before.weight), (2.0, 1.0));
        let facts = |node: &backstop::endpoints::NodeSnapshot| {
            (
                node.state,
                node.in_flight,
                node.latency,
                node.calls,
                node.ejections,
                node.retry_after,
            )
        };
        assert_eq!(facts(&before), facts(&after));
    }
    assert_eq!(state(&endpoints, 3), NodeState::Ejected);
    assert_eq!(state(&endpoints, 10), NodeState::Starting);
    drop(held);
}

#[test]
fn nodes_that_are_removed_finish_their_calls_and_are_forgotten() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).build().unwrap();
    let permits = [0, 1].map(|_| endpoints.try_acquire().unwrap());
    let endpoints_of_call = endpoints.clone();
    endpoints.update(nodes(5..6)).unwrap();
    for permit in permits {
        let node = permit.node().clone();
        assert_eq!(
            state(&endpoints_of_call, **permit.node()),
            NodeState::Draining
        );
        permit.success();
        assert_eq!(
            (*node.value(), node.in_flight()),
            (*node, 0),
            "it stays usable"
        );
    }
    assert_eq!(picks(&endpoints, 10).into_keys().collect::<Vec<_>>(), [5]);
    endpoints.update(nodes(5..6)).unwrap();
    assert_eq!(endpoints.snapshot().nodes.len(), 1);
    assert!(endpoints.get(&name(0)).is_none() && endpoints.get(&name(5)).is_some());
}

#[test]
fn an_attempt_finds_its_node_after_the_node_was_removed() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let (set, handle) = (&endpoints, &clock);
    let call = endpoints.call_with(|attempt| async move {
        set.update([]).unwrap();
        handle.sleep(SECOND).await;
        Ok::<_, ()>(set.node(&attempt).map(|node| *node))
    });
    assert_eq!(clock.block_on(call), Ok(Some(0)));
}

#[test]
fn a_node_that_comes_back_while_its_calls_are_in_flight_is_the_same() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let permit = endpoints.try_acquire().unwrap();
    endpoints.update([]).unwrap();
    assert!(endpoints.try_acquire().is_err());
    let changes = endpoints.update(nodes(0..1)).unwrap();
    assert_eq!((changes.added, changes.kept), (1, 0));
    assert_eq!(of(&endpoints.snapshot(), 0).in_flight, 1);
    permit.success();
    assert_eq!(of(&endpoints.snapshot(), 0).in_flight, 0);
    assert!(endpoints.try_acquire().is_ok());
}

#[test]
fn an_update_that_is_wrong_changes_nothing() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).build().unwrap();
    let before = endpoints.snapshot();
    let twice = [Endpoint::new("a", 1), Endpoint::new("a", 2)];
    let error = endpoints.update(twice).unwrap_err();
    assert_eq!(
        error.to_string(),
        "endpoints: nodes must have different names"
    );
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
        assert!(
            endpoints
                .update([Endpoint::new("a", 1).weight(weight)])
                .is_err()
        );
    }
    assert_eq!(endpoints.snapshot(), before);
}

#[test]
fn a_drained_node_finishes_its_calls_and_gets_no_others() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = builder(&clock, 2)
        .observer(heard.observer())
        .build()
        .unwrap();
    let permits: Vec<_> = (0..4).map(|_| endpoints.try_acquire().unwrap()).collect();
    let on_first = permits.iter().filter(|permit| **permit.node() == 0).count();
    let mut drain = pin!(endpoints.drain(&name(0)).unwrap());
    assert_eq!(
        heard.take(),
        [format!(
            "endpoints: drains node-0, {on_first} calls in flight"
        )]
    );
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Pending);
    assert!(!picks(&endpoints, 100).contains_key(&0));
    let (mut first, others): (Vec<_>, Vec<_>) =
        permits.into_iter().partition(|permit| **permit.node() == 0);
    drop(others);
    let last = first.pop().unwrap();
    drop(first);
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Pending);
    last.success();
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Ready(()));

    assert_eq!(state(&endpoints, 0), NodeState::Draining);
    endpoints.update(nodes(0..2)).unwrap();
    assert_eq!(
        state(&endpoints, 0),
        NodeState::Draining,
        "the list does not end a drain"
    );
    assert!(endpoints.resume(&name(0)) && !endpoints.resume(&name(0)));
    assert_eq!(state(&endpoints, 0), NodeState::Starting);
    assert!(endpoints.drain("unknown").is_none() && !endpoints.resume("unknown"));
}

#[test]
fn every_drain_of_a_node_is_woken_by_its_last_call() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let permit = endpoints.try_acquire().unwrap();
    let drains = [1, 2].map(|_| endpoints.drain(&name(0)).unwrap());
    let [first, second] = drains;
    let handle = clock.clone();
    clock.block_on(async {
        let work = async {
            handle.sleep(ms(10)).await;
            permit.success();
        };
        futures::join!(first, second, work);
    });
}

#[test]
fn a_drain_ends_when_its_node_is_resumed_and_leaves_nothing_behind_when_it_is_dropped() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let _permit = endpoints.try_acquire().unwrap();
    let waker = Arc::new(Count::default());
    {
        let mut dropped = pin!(endpoints.drain(&name(0)).unwrap());
        let waker = waker.clone().into();
        let _ = dropped.as_mut().poll(&mut Context::from_waker(&waker));
    }
    assert_eq!(
        Arc::strong_count(&waker),
        1,
        "the waker of a drain that was dropped"
    );
    let (set, handle) = (endpoints.clone(), clock.clone());
    let drain = endpoints.drain(&name(0)).unwrap();
    clock.block_on(async {
        let resume = async {
            handle.sleep(ms(10)).await;
            set.resume(&name(0));
        };
        futures::join!(drain, resume);
    });
}

#[derive(Default)]
struct Count(std::sync::atomic::AtomicU32);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn threads_that_pick_while_nodes_come_and_go_lose_no_call() {
    let clock = ManualClock::new();
    let endpoints: Endpoints<usize> = builder(&clock, 4).build().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let calls = [(); 3].map(|()| std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        for calls in &calls {
            let (endpoints, stop) = (&endpoints, &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // First, so that the loop below ends although a call panics.
                    calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let permit = endpoints.try_acquire().expect("one of the nodes stays");
                    assert!(**permit.node() < 8);
                    permit.success();
                }
            });
        }
        // The nodes change only once every thread makes calls.
        for calls in &calls {
            while calls.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
        }
        for round in 0..500 {
            let first = round % 4;
            endpoints.update(nodes(first..first + 4)).unwrap();
            drop(endpoints.drain(&name(first + 1)));
            endpoints.resume(&name(first + 1));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    endpoints.update(nodes(0..1)).unwrap();
    let snapshot = endpoints.snapshot();
    assert_eq!((snapshot.nodes.len(), snapshot.rejected), (1, 0));
    assert!(snapshot.nodes.iter().all(|node| node.in_flight == 0));
}

#[test]
fn a_drain_ends_when_its_node_is_removed_and_added_again() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let permit = endpoints.try_acquire().unwrap();
    let waker = Arc::new(Count::default());
    let mut drain = pin!(endpoints.drain(&name(0)).unwrap());
    let task = waker.clone().into();
    let mut cx = Context::from_waker(&task);
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Pending);
    endpoints.update([]).unwrap();
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Pending);
    endpoints.update(nodes(0..1)).unwrap();
    assert_eq!(waker.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(drain.as_mut().poll(&mut cx), Poll::Ready(()));
    permit.success();
}

#[test]
fn an_update_that_replaces_all_nodes_rejects_no_call() {
    let clock = ManualClock::new();
    let endpoints: Endpoints<usize> = builder(&clock, 1).build().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(endpoints.try_acquire());
                }
            });
        }
        for round in 0..5_000 {
            endpoints.update(nodes(round..round + 1)).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(endpoints.snapshot().rejected, 0);
}

#[test]
fn the_value_of_a_removed_node_is_dropped_with_its_last_call() {
    let clock = ManualClock::new();
    let value = Arc::new(());
    let endpoints = Endpoints::builder()
        .node("a", value.clone())
        .clock(clock)
        .build()
        .unwrap();
    let permits = [1, 2].map(|_| endpoints.try_acquire().unwrap());
    endpoints.update([]).unwrap();
    let [first, last] = permits;
    first.success();
    assert!(Arc::strong_count(&value) > 1);
    last.success();
    assert_eq!(Arc::strong_count(&value), 1);
    assert_eq!(endpoints.snapshot().nodes.len(), 0);
}

#[test]
fn a_large_set_is_built_and_updated_in_linear_time() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 50_000).build().unwrap();
    let changes = endpoints.update(nodes(25_000..75_000)).unwrap();
    assert_eq!(
        (changes.added, changes.removed, changes.kept),
        (25_000, 25_000, 25_000)
    );
    assert!(endpoints.try_acquire().is_ok());
}

#[test]
fn a_node_that_is_resumed_alone_is_not_ejected() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2).panic_threshold(0.0).build().unwrap();
    fail(&endpoints, 0, 5);
    for node in [0, 1] {
        drop(endpoints.drain(&name(node)));
    }
    assert!(endpoints.try_acquire().is_err());
    assert!(endpoints.resume(&name(0)));
    assert!(endpoints.try_acquire().is_ok());
    assert_ne!(state(&endpoints, 0), NodeState::Ejected);
}

#[test]
fn slow_start_is_skipped_when_calls_are_rare() {
    let clock = ManualClock::new();
    for (per_second, is_slow) in [(5, false), (12, true)] {
        // Six nodes, so that five calls a second are less than one for each.
        let endpoints = rotating(&clock, 6).build().unwrap();
        let calls_in = |seconds: u32| {
            let mut of_new = 0;
            for _ in 0..seconds * per_second {
                clock.advance(SECOND / per_second);
                let permit = endpoints.try_acquire().unwrap();
                of_new += u32::from(**permit.node() == 6);
                permit.success();
            }
            of_new
        };
        calls_in(40);
        endpoints.update(nodes(1..7)).unwrap();
        let of_new = calls_in(6);
        match is_slow {
            true => assert!(of_new < 6, "{of_new} of 72"),
            false => assert!((4..=6).contains(&of_new), "{of_new} of 30"),
        }
    }
}
