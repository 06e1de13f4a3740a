//! Every token is granted, spent, returned, or paid for, and every rejection is reported, once.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::{Fault, MemoryStore, Reply, Store, Take, Taken};
use backstop::{Event, ManualClock, Pipeline, Policy, Quota, Rejected, SharedRateLimiter};
use proptest::prelude::*;

use crate::fleet::MILLISECOND;

type Call = Pin<Box<dyn Future<Output = Result<(), Rejected>>>>;

/// Returns the tokens left in the store.
fn remaining(store: &MemoryStore, quota: Quota) -> u64 {
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    let mut take = Take::new("key".into(), quota, 0);
    take.at_least = 0;
    store.take(
        vec![take],
        Reply::new(move |taken: Result<Vec<Taken>, _>| {
            *slot.lock().unwrap() = Some(taken.unwrap()[0].remaining);
        }),
    );
    let seen = seen.lock().unwrap().take();
    seen.unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Try(usize, u64),
    Wait(usize, u64),
    Drop(usize),
    Latency(u64),
    Fault(Option<Fault>),
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let normal = prop_oneof![
        5 => (0_u64..30).prop_map(Step::Advance),
        1 => (30_u64..1500).prop_map(Step::Advance),
        6 => (0_usize..3, prop_oneof![4 => 1_u64..4, 1 => 1_u64..60]).prop_map(|(n, c)| Step::Try(n, c)),
        3 => (0_usize..3, prop_oneof![4 => 1_u64..4, 1 => 1_u64..60]).prop_map(|(n, c)| Step::Wait(n, c)),
        4 => (0_usize..64).prop_map(Step::Drop),
        1 => (0_u64..11).prop_map(Step::Latency),
    ];
    let fault = prop_oneof![
        2 => Just(Step::Fault(None)),
        1 => Just(Step::Fault(Some(Fault::Fail))),
        1 => Just(Step::Fault(Some(Fault::Stall))),
    ];
    match faults {
        true => prop_oneof![10 => normal, 1 => fault].boxed(),
        false => normal.boxed(),
    }
}

/// Runs the steps with three processes, whose tokens refill in no time that matters, and lets them return their leases.
/// Returns the tokens of the calls admitted, those left in the store, and the processes.
fn conserve(burst: u64, mode: SyncMode, outage: Outage, steps: &[Step]) -> (u64, u64, String) {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let quota = Quota::per_day(burst.min(300)).burst(burst);
    let nodes: Vec<SharedRateLimiter> = (0..3)
        .map(|seed| {
            SharedRateLimiter::builder()
                .store(store.clone())
                .key("key")
                .quota(quota)
                .sync(mode)
                .on_outage(outage)
                .clock(clock.clone())
                .seed(seed)
                .build()
                .unwrap()
        })
        .collect();
    let mut pending: Vec<(u64, Call)> = Vec::new();
    let mut admitted = 0;
    let mut cx = Context::from_waker(Waker::noop());
    let mut settle = |pending: &mut Vec<(u64, Call)>| {
        pending.retain_mut(|(cost, call)| match call.as_mut().poll(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                admitted += if result.is_ok() { *cost } else { 0 };
                false
            }
        });
        admitted
    };
    for step in steps {
        match *step {
            Step::Advance(millis) => {
                for _ in 0..millis.div_ceil(5) {
                    clock.advance(5 * MILLISECOND);
                    settle(&mut pending);
                }
            }
            Step::Try(node, cost) => {
                let node = nodes[node].clone();
                pending.push((
                    cost,
                    Box::pin(async move { node.try_acquire_n(cost).await }),
                ));
            }
            Step::Wait(node, cost) => {
                let node = nodes[node].clone();
                pending.push((cost, Box::pin(async move { node.acquire_n(cost).await })));
            }
            Step::Drop(number) => {
                if !pending.is_empty() {
                    let number = number % pending.len();
                    let _ = pending.remove(number);
                }
            }
            Step::Latency(millis) => store.set_latency(millis as u32 * MILLISECOND),
            Step::Fault(fault) => store.set_fault(fault),
        }
        // Some wait unpolled for a while.
        if pending.len() % 2 == 0 {
            settle(&mut pending);
        }
    }
    pending.clear();
    store.set_latency(Duration::ZERO);
    store.set_fault(None);
    let mut upkeep: Vec<_> = nodes.iter().map(|node| Box::pin(node.maintain())).collect();
    for _ in 0..4000 {
        for maintain in &mut upkeep {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(maintain.as_mut().poll(&mut cx).is_pending());
        }
        clock.advance(5 * MILLISECOND);
    }
    let admitted = settle(&mut pending);
    (admitted, remaining(&store, quota), format!("{nodes:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tokens_are_neither_lost_nor_made(
        burst in 1_u64..300,
        exact in any::<bool>(),
        steps in prop::collection::vec(step(false), 1..80),
    ) {
        let mode = if exact { SyncMode::Exact } else { SyncMode::Leased };
        let (admitted, left, text) = conserve(burst, mode, Outage::OwnShare, &steps);
        let expected = burst.saturating_sub(admitted);
        prop_assert!(admitted <= burst, "{admitted} of {burst}");
        // What is returned counts less by the time for which it was held.
        prop_assert!(left <= expected + 1 && left + 2 >= expected, "{admitted} of {burst}, left {left}: {text}");
    }

    #[test]
    fn tokens_spent_without_the_store_are_paid_for(
        burst in 1_u64..300,
        exact in any::<bool>(),
        outage in prop_oneof![3 => Just(Outage::OwnShare), 1 => Just(Outage::Closed)],
        steps in prop::collection::vec(step(true), 1..120),
    ) {
        let mode = if exact { SyncMode::Exact } else { SyncMode::Leased };
        let (admitted, left, text) = conserve(burst, mode, outage, &steps);
        let expected = burst.saturating_sub(admitted);
        // Fewer are left if a request that returned some got lost.
        prop_assert!(left <= expected + 2, "{admitted} of {burst}, left {left}: {text}");
    }
}

#[test]
fn buckets_of_one_request_grant_all_or_nothing() {
    let store = MemoryStore::new(ManualClock::new());
    let quota = Quota::per_day(10);
    let request = |takes: Vec<Take>| {
        let (send, answer) = std::sync::mpsc::channel();
        store.take(
            takes,
            Reply::new(move |taken| send.send(taken).unwrap_or_default()),
        );
        answer.try_recv().unwrap().unwrap()
    };
    let take = |key: &str, ask, at_least| {
        let mut take = Take::new(key.into(), quota, ask);
        take.at_least = at_least;
        take
    };
    request(vec![take("b", 7, 7)]);
    let takes = vec![take("a", 4, 4), take("b", 4, 4), take("c", 1, 1)];
    let taken = request(takes);
    let seen: Vec<_> = taken.iter().map(|it| (it.granted, it.remaining)).collect();
    assert_eq!(seen, [(0, 10), (0, 3), (0, 10)]);
    let waits: Vec<_> = taken.iter().map(|it| it.retry_after.is_zero()).collect();
    assert_eq!(waits, [true, false, true]);
    // What is debited and returned counts anyway, and a part is granted where one suffices.
    let mut takes = vec![take("a", 4, 4), take("b", 4, 4)];
    takes[0].spent = 8;
    takes[1].give_back = Some((2, taken[1].now));
    let seen = request(takes).iter().map(|it| it.remaining).sum::<u64>();
    assert_eq!(seen, 2 + 5);
    let taken = request(vec![take("a", 4, 1), take("b", 4, 4)]);
    let seen: Vec<_> = taken.iter().map(|it| (it.granted, it.remaining)).collect();
    assert_eq!(seen, [(2, 0), (4, 1)]);
}

#[test]
fn every_rejection_is_one_event() {
    for shadow in [false, true] {
        for max_wait in [0, 30] {
            let clock = ManualClock::new();
            let store = MemoryStore::new(clock.clone());
            store.set_latency(MILLISECOND);
            let events: Arc<Mutex<Vec<Event>>> = Arc::default();
            let heard = events.clone();
            let limiter = SharedRateLimiter::builder()
                .store(store.clone())
                .key("key")
                .quota(Quota::per_second(100).burst(40))
                .shadow(shadow)
                .max_wait(max_wait * MILLISECOND)
                .observer(move |event: &Event| heard.lock().unwrap().push(*event))
                .clock(clock.clone())
                .seed(2)
                .build()
                .unwrap();
            let policy = Pipeline::new(limiter.clone()).with_name("pipe");
            let (mut ok, mut err) = (0, 0);
            let mut pending: Vec<Call> = Vec::new();
            let mut random = 3_u64;
            for now in 0..6100 {
                match now {
                    2000 => store.set_fault(Some(Fault::Stall)),
                    4000 => store.set_fault(None),
                    _ => {}
                }
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let kind = if now < 6000 { (random >> 11) % 20 } else { 20 };
                match kind {
                    0 => match limiter.try_acquire_held() {
                        Ok(()) => ok += 1,
                        Err(_) => err += 1,
                    },
                    1 => {
                        let limiter = limiter.clone();
                        pending.push(Box::pin(async move { limiter.try_acquire_n(50).await }));
                    }
                    2..=8 => {
                        let policy = policy.clone();
                        pending.push(Box::pin(async move {
                            let result =
                                policy.call(|| async { Ok::<_, std::io::Error>(()) }).await;
                            match result {
                                Err(backstop::Error::Rejected(rejected)) => Err(rejected),
                                _ => Ok(()),
                            }
                        }));
                    }
                    _ => {}
                }
                let mut cx = Context::from_waker(Waker::noop());
                pending.retain_mut(|call| match call.as_mut().poll(&mut cx) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(())) => {
                        ok += 1;
                        false
                    }
                    Poll::Ready(Err(_)) => {
                        err += 1;
                        false
                    }
                });
                clock.advance(MILLISECOND);
            }
            let snapshot = limiter.snapshot();
            let events = events.lock().unwrap();
            let count =
                |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count() as u64;
            let rejected = count(|event| matches!(event, Event::Rejected { .. }));
            let would = count(|event| matches!(event, Event::WouldReject { .. }));
            let stores = count(|event| matches!(event, Event::Store { .. }));
            let numbers: Vec<_> = events
                .iter()
                .map(|event| event.sequence().unwrap())
                .collect();
            assert!(
                numbers.windows(2).all(|two| two[0] + 1 == two[1]),
                "{numbers:?}"
            );
            assert_eq!(
                (snapshot.rejected, snapshot.would_reject),
                (rejected, would)
            );
            assert_eq!((rejected, stores, pending.len()), (err, 2, 0));
            assert!(ok > 300 && rejected + would > 1000, "{snapshot:?}");
        }
    }
}
