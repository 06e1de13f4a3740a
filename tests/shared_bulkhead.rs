//! One bulkhead for several processes, each of which is simulated by a bulkhead of its own on one store.

#[path = "shared_bulkhead/any_cost.rs"]
mod any_cost;
#[path = "shared_bulkhead/finish.rs"]
mod finish;
#[path = "shared_bulkhead/sharing.rs"]
mod sharing;
#[path = "shared_bulkhead/user_code.rs"]
mod user_code;
#[path = "watchdog/mod.rs"]
mod watchdog;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::shared_bulkhead::Permit;
use backstop::store::{Fault, Held, Hold, MemoryStore, PermitStore, Reply};
use backstop::{Clock, ManualClock, Policy, Reason, Rejected, SharedBulkhead};
use proptest::prelude::*;

use self::finish::Finish;

const TTL: Duration = Duration::from_secs(3);

fn process(clock: &ManualClock, store: &MemoryStore, limit: u64) -> SharedBulkhead {
    SharedBulkhead::builder()
        .store(store.clone())
        .key("key")
        .max_concurrent(limit)
        .ttl(TTL)
        .seed(7)
        .clock(clock.clone())
        .build()
        .unwrap()
}

fn fleet(processes: usize, limit: u64) -> (ManualClock, MemoryStore, Vec<SharedBulkhead>) {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let fleet = (0..processes).map(|_| process(&clock, &store, limit));
    let fleet = fleet.collect();
    (clock, store, fleet)
}

#[test]
fn the_processes_together_hold_the_limit_and_no_more() {
    let (clock, store, fleet) = fleet(3, 10);
    let mut permits = Vec::new();
    for call in 0..30 {
        permits.extend(clock.finish(fleet[call % 3].try_acquire()).ok());
    }
    assert_eq!(permits.len(), 10);
    assert!(store.requests() < 30, "{} trips", store.requests());
    // Permits that one process does not need any more go to the others.
    permits.clear();
    clock.advance(Duration::from_secs(1));
    for bulkhead in &fleet {
        drop(clock.finish(bulkhead.try_acquire()));
    }
    clock.advance(Duration::from_secs(1));
    for bulkhead in &fleet {
        drop(clock.finish(bulkhead.try_acquire()));
    }
    for _ in 0..20 {
        clock.advance(Duration::from_millis(100));
        permits.extend(clock.finish(fleet[0].try_acquire()).ok());
    }
    assert!(permits.len() >= 7, "{} of 10", permits.len());
}

#[test]
fn a_call_inside_a_block_takes_no_trip() {
    let (clock, store, fleet) = fleet(1, 100);
    let first: Vec<_> = (0..20)
        .map(|_| clock.finish(fleet[0].try_acquire()).unwrap())
        .collect();
    drop(first);
    let trips = store.requests();
    for _ in 0..1000 {
        clock
            .block_on(fleet[0].call(|| async { Ok::<_, ()>(()) }))
            .unwrap();
    }
    assert_eq!(store.requests(), trips);
}

#[test]
fn permits_of_a_killed_process_come_back_after_the_time_to_live() {
    let (clock, store, mut fleet) = fleet(2, 4);
    let dead = fleet.remove(0);
    let held: Vec<_> = (0..4)
        .map(|_| clock.finish(dead.try_acquire()).unwrap())
        .collect();
    // Neither its permits nor its handle are dropped: it is gone.
    std::mem::forget((held, dead));
    assert!(clock.finish(fleet[0].try_acquire()).is_err());
    clock.advance(TTL - Duration::from_millis(100));
    assert!(clock.finish(fleet[0].try_acquire()).is_err());
    clock.advance(Duration::from_millis(200));
    assert!(clock.finish(fleet[0].try_acquire()).is_ok());
    drop(store);
}

#[test]
fn a_process_that_ends_gives_its_permits_back_at_once() {
    let (clock, _, mut fleet) = fleet(2, 1);
    let ending = fleet.remove(0);
    drop(clock.finish(ending.try_acquire()).unwrap());
    assert!(
        clock.finish(fleet[0].try_acquire()).is_err(),
        "the other one keeps it for a while"
    );
    drop(ending);
    clock.advance(Duration::from_millis(100));
    assert!(clock.finish(fleet[0].try_acquire()).is_ok());
}

#[test]
fn waiters_are_served_in_their_order_when_permits_are_released() {
    let (clock, _, fleet) = fleet(1, 1);
    let order = std::sync::Mutex::new(Vec::new());
    let call = |number: u32| {
        let (order, clock, bulkhead) = (&order, &clock, &fleet[0]);
        async move {
            let permit = bulkhead.acquire().await.unwrap();
            order.lock().unwrap().push(number);
            clock.sleep(Duration::from_millis(10)).await;
            drop(permit);
        }
    };
    clock.finish(futures::future::join_all((0..5).map(call)));
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(
        clock.now().as_nanos(),
        50_000_000,
        "each begins when the one before ends"
    );
    assert_eq!(fleet[0].snapshot().in_flight, 0);
}

#[test]
fn a_waiter_gets_a_permit_that_another_process_released() {
    let (clock, _, fleet) = fleet(2, 2);
    let held: Vec<_> = (0..2)
        .map(|_| clock.finish(fleet[0].try_acquire()).unwrap())
        .collect();
    let (first, other, time) = (fleet[0].clone(), fleet[1].clone(), clock.clone());
    let keeper = async {
        time.sleep(Duration::from_millis(500)).await;
        drop(held);
        // Until its next two reports the process may need them again.
        let mut maintain = Box::pin(first.maintain());
        let mut sleep = Box::pin(time.sleep(Duration::from_secs(10)));
        std::future::poll_fn(|task| {
            let _ = maintain.as_mut().poll(task);
            sleep.as_mut().poll(task)
        })
        .await;
    };
    let waiter = async {
        let _permit = other.acquire().await.unwrap();
        time.now()
    };
    let (_, got) = clock.finish(futures::future::join(keeper, waiter));
    assert!(got.as_nanos() < 3_500_000_000, "after {got:?}");
}

#[test]
fn without_the_store_calls_are_admitted_until_the_permits_expire() {
    let (clock, store, fleet) = fleet(1, 10);
    let bulkhead = &fleet[0];
    drop(clock.finish(bulkhead.try_acquire()).unwrap());
    store.set_fault(Some(Fault::Fail));
    for _ in 0..28 {
        clock.advance(Duration::from_millis(100));
        assert!(clock.finish(bulkhead.try_acquire()).is_ok());
    }
    clock.advance(Duration::from_millis(300));
    let rejected = clock.finish(bulkhead.try_acquire()).unwrap_err();
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    assert!(!bulkhead.snapshot().store_up);
    store.set_fault(None);
    clock.advance(Duration::from_secs(1));
    assert!(clock.finish(bulkhead.try_acquire()).is_ok());
    assert!(bulkhead.snapshot().store_up);
}

type Request = (Hold, Reply<Held>);

/// A connection that delivers one request late, after those that were sent behind it.
#[derive(Clone)]
struct Late {
    store: MemoryStore,
    keeps: Arc<AtomicBool>,
    kept: Arc<Mutex<Option<Request>>>,
}

impl PermitStore for Late {
    fn hold(&self, hold: Hold, reply: Reply<Held>) {
        match self.keeps.swap(false, Ordering::Relaxed) {
            true => *self.kept.lock().unwrap() = Some((hold, reply)),
            false => self.store.hold(hold, reply),
        }
    }
}

#[test]
fn a_request_that_a_broken_connection_delivers_late_changes_nothing() {
    let (clock, store, mut fleet) = fleet(1, 10);
    let late = Late {
        store: store.clone(),
        keeps: Arc::default(),
        kept: Arc::default(),
    };
    let builder = SharedBulkhead::builder().store(late.clone()).key("key");
    let one = builder.max_concurrent(10).ttl(TTL).clock(clock.clone());
    let one = one.build().unwrap();
    let other = fleet.remove(0);
    let mut permits = vec![clock.finish(one.try_acquire()).unwrap()];
    // A request for few permits is lost on its way, and its time is over.
    clock.advance(TTL / 2);
    late.keeps.store(true, Ordering::Relaxed);
    permits.extend(clock.finish(one.try_acquire()).ok());
    clock.advance(Duration::from_millis(300));
    while let Ok(permit) = clock.finish(one.try_acquire()) {
        permits.push(permit);
    }
    assert_eq!(permits.len(), 10);
    let (hold, reply) = late.kept.lock().unwrap().take().expect("it was kept");
    store.hold(hold, reply);
    while let Ok(permit) = clock.finish(other.try_acquire()) {
        permits.push(permit);
    }
    assert_eq!(permits.len(), 10);
}

#[test]
fn a_store_that_grants_more_than_it_was_asked_for_is_not_trusted() {
    #[derive(Clone)]
    struct Generous;
    impl PermitStore for Generous {
        fn hold(&self, hold: Hold, reply: Reply<Held>) {
            let _ = hold;
            reply.send(Ok(Held::new(u64::MAX, u64::MAX, u64::MAX)));
        }
    }
    let clock = ManualClock::new();
    let builder = SharedBulkhead::builder().store(Generous).key("key");
    let bulkhead = builder.max_concurrent(4).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let permits: Vec<_> = (0..9)
        .filter_map(|_| clock.finish(bulkhead.try_acquire()).ok())
        .collect();
    assert_eq!(permits.len(), 4);
}

#[test]
fn a_dropped_call_loses_no_permit() {
    // Dropped while the request is in flight, and after the permit was given to it.
    for dropped_after in [0, 10] {
        let (clock, store, fleet) = fleet(1, 1);
        store.set_latency(Duration::from_millis(5));
        let mut call = Box::pin(fleet[0].acquire());
        let poll = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        clock.advance(Duration::from_millis(dropped_after));
        drop(call);
        clock.advance(Duration::from_millis(20));
        assert!(clock.finish(fleet[0].try_acquire()).is_ok());
        assert_eq!(fleet[0].snapshot().in_flight, 0);
        assert_eq!(clock.sleepers(), 0);
    }
}

#[test]
fn a_waiter_looks_again_when_an_answer_comes_and_not_when_its_time_is_over() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    store.set_latency(Duration::from_millis(1));
    let build = || {
        let builder = SharedBulkhead::builder().store(store.clone()).key("key");
        let builder = builder.max_concurrent(1).ttl(TTL).store_timeout(TTL / 3);
        builder.clock(clock.clone()).build().unwrap()
    };
    let (one, other) = (build(), build());
    drop(clock.finish(one.acquire()).unwrap());
    let begun = clock.now();
    let ending = async {
        clock.sleep(Duration::from_millis(5)).await;
        drop(one);
    };
    let waiter = async { other.acquire().await.map(drop) };
    clock
        .block_on(futures::future::join(ending, waiter))
        .1
        .unwrap();
    let waited = clock.now().saturating_duration_since(begun);
    assert!(waited < Duration::from_millis(200), "{waited:?}");
}

#[test]
fn a_call_without_a_cost_needs_no_permit() {
    let (clock, _, fleet) = fleet(1, 1);
    let bulkhead = &fleet[0];
    let _permit = clock.finish(bulkhead.try_acquire()).unwrap();
    let mut waiting = Box::pin(bulkhead.acquire());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert_eq!(clock.finish(bulkhead.try_acquire_n(0)).unwrap().cost(), 0);
    // The permits have expired.
    clock.advance(2 * TTL);
    assert!(clock.finish(bulkhead.acquire_n(0)).is_ok());
    assert_eq!(bulkhead.snapshot().in_flight, 1);
}

#[test]
fn settings_without_meaning_are_errors_that_name_them() {
    let (clock, store, _) = fleet(1, 1);
    let builder = || {
        let builder = SharedBulkhead::builder().store(store.clone()).key("key");
        builder.max_concurrent(1).clock(clock.clone())
    };
    let second = Duration::from_secs(1);
    let cases = [
        (builder().max_concurrent(0), "max_concurrent"),
        (builder().ttl(Duration::ZERO), "ttl"),
        (builder().ttl(Duration::MAX), "ttl"),
        (builder().store_timeout(Duration::ZERO), "store_timeout"),
        (builder().ttl(second).store_timeout(second), "store_timeout"),
        (builder().max_wait(second).max_waiting(0), "max_wait"),
        (builder().max_wait(second), "max_wait"),
        (SharedBulkhead::builder().key("key"), "store"),
    ];
    for (builder, setting) in cases {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(setting), "{error}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(usize),
    Release(usize),
    Advance(u64),
    Maintain(usize),
    Fault(Option<Fault>),
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..4).prop_map(Step::Acquire),
        5 => (0_usize..64).prop_map(Step::Release),
        4 => (1_u64..400).prop_map(Step::Advance),
        1 => (500_u64..4000).prop_map(Step::Advance),
        3 => (0_usize..4).prop_map(Step::Maintain),
        1 => prop_oneof![Just(None), Just(Some(Fault::Fail)), Just(Some(Fault::LoseReplies))].prop_map(Step::Fault),
        1 => (0_usize..4).prop_map(Step::Kill),
    ]
}

type Call = Pin<Box<dyn Future<Output = Result<Permit, Rejected>>>>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn never_are_more_calls_admitted_than_the_limit_has_room_for(
        limit in 1_u64..12,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (clock, store, mut fleet) = fleet(4, limit);
        // Permits of live processes, with the number of the process.
        let mut permits: Vec<(usize, Permit)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(process) => {
                    let bulkhead = fleet[process].clone();
                    let mut call: Call = Box::pin(async move { bulkhead.try_acquire().await });
                    let poll = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    if let Poll::Ready(Ok(permit)) = poll {
                        permits.push((process, permit));
                        let snapshot = fleet[process].snapshot();
                        prop_assert!(snapshot.in_flight <= snapshot.held, "{snapshot:?}");
                    }
                }
                Step::Release(index) if !permits.is_empty() => {
                    drop(permits.swap_remove(index % permits.len()));
                }
                Step::Release(_) => {}
                Step::Advance(millis) => clock.advance(Duration::from_millis(millis)),
                Step::Maintain(process) => {
                    let mut maintain = Box::pin(fleet[process].maintain());
                    let _ = maintain.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                }
                Step::Fault(fault) => store.set_fault(fault),
                Step::Kill(number) => {
                    let (dead, alive) = permits.into_iter().partition(|(process, _)| *process == number);
                    permits = alive;
                    std::mem::forget::<Vec<(usize, Permit)>>(dead);
                    let dead = std::mem::replace(&mut fleet[number], process(&clock, &store, limit));
                    std::mem::forget(dead);
                }
            }
            // Calls in flight whose permits lapsed count for nothing: their process knows that it may not begin more.
            let held: u64 = fleet.iter().map(|process| process.snapshot().held).sum();
            prop_assert!(held <= limit, "{held} of {limit}");
        }
    }
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_loop_of_ready_acquires_lets_other_tasks_run() {
    let (clock, _, fleet) = fleet(1, 100);
    let ran = std::rc::Rc::new(std::cell::Cell::new(false));
    let other = ran.clone();
    let local = tokio::task::LocalSet::new();
    let ready = local.run_until(async {
        // Until a block is there.
        for _ in 0..10 {
            drop(clock.finish(fleet[0].acquire()).unwrap());
        }
        tokio::task::spawn_local(async move { other.set(true) });
        let mut ready = 0;
        while !ran.get() && ready < 1000 {
            drop(fleet[0].acquire().await.unwrap());
            ready += 1;
        }
        ready
    });
    let ready = ready.await;
    assert!((2..1000).contains(&ready), "{ready}");
}

#[test]
fn a_permit_that_no_trip_has_brought_is_not_there_without_one() {
    let (clock, store, fleet) = fleet(1, 10);
    let held = || fleet[0].try_acquire_held();
    assert_eq!(held().unwrap_err().reason(), Reason::BulkheadFull);
    drop(clock.finish(fleet[0].try_acquire()).unwrap());
    let requests = store.requests();
    assert!(held().is_ok());
    assert_eq!(store.requests(), requests);
}

#[test]
fn a_process_that_ends_leaves_nothing_in_the_store() {
    let (clock, store, fleet) = fleet(1, 10);
    drop(clock.finish(fleet[0].try_acquire()).unwrap());
    assert!(!store.is_empty());
    drop(fleet);
    assert!(store.is_empty());
}

/// A clock on which the time of each sleep passes at once.
#[derive(Debug)]
struct Leaping(ManualClock);

impl Clock for Leaping {
    fn now(&self) -> backstop::Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: backstop::Instant) -> backstop::Sleep {
        self.0
            .advance(deadline.saturating_duration_since(self.0.now()));
        self.0.sleep_until(deadline)
    }
}

#[test]
fn a_waiter_whose_timers_are_over_at_once_waits_no_longer_than_it_may() {
    watchdog::within_a_minute(|| {
        let time = ManualClock::new();
        let bulkhead = SharedBulkhead::builder()
            .store(MemoryStore::new(time.clone()))
            .key("key")
            .max_concurrent(1)
            .clock(Leaping(time.clone()))
            .build()
            .unwrap();
        let held = time.block_on(bulkhead.try_acquire()).unwrap();
        let begin = time.now();
        let waiting = bulkhead.acquire_within(1, Duration::from_secs(5));
        let rejected = time.block_on(waiting).unwrap_err();
        assert_eq!(rejected.reason(), Reason::QueueTimeout);
        let waited = time.now().saturating_duration_since(begin);
        assert_eq!(waited, Duration::from_secs(5));
        drop(held);
    });
}
