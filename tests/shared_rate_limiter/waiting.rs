//! Calls that wait for their turn.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::shared_rate_limiter::SyncMode;
use backstop::store::Fault;
use backstop::store::MemoryStore;
use backstop::{
    CallOptions, ManualClock, Pipeline, Policy, Quota, Reason, SharedRateLimiter, Timeout,
};

use crate::fleet::MILLISECOND;

fn limiter(clock: &ManualClock, quota: Quota) -> (SharedRateLimiter, MemoryStore) {
    let store = MemoryStore::new(clock.clone());
    let builder = SharedRateLimiter::builder().store(store.clone()).key("key");
    let limiter = builder
        .quota(quota)
        .seed(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    (limiter, store)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn waiters_are_served_in_their_order_and_at_the_rate() {
    let clock = ManualClock::new();
    let (limiter, store) = limiter(&clock, Quota::per_second(10).burst(1));
    store.set_latency(MILLISECOND);
    let order = std::sync::Mutex::new(Vec::new());
    let waiter = |number: usize| {
        let (limiter, order, clock) = (&limiter, &order, &clock);
        async move {
            limiter.acquire().await.unwrap();
            order.lock().unwrap().push(number);
            backstop::Clock::now(clock)
        }
    };
    let times = clock.block_on(futures::future::join_all((0..10).map(waiter)));
    assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
    let last = times[9].as_nanos() as f64 / 1e9;
    assert!((0.9..1.2).contains(&last), "{last} s");
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_dropped_waiter_loses_no_token() {
    // Dropped while the request is in flight, and after it was served.
    for dropped_after in [0, 2] {
        let clock = ManualClock::new();
        let (limiter, store) = limiter(&clock, Quota::per_second(1).burst(3));
        store.set_latency(MILLISECOND);
        let mut call = Box::pin(limiter.acquire());
        assert!(poll(call.as_mut()).is_pending());
        clock.advance(dropped_after * MILLISECOND);
        drop(call);
        clock.advance(5 * MILLISECOND);
        for call in 0..3 {
            assert!(clock.block_on(limiter.try_acquire()).is_ok(), "call {call}");
        }
        assert!(clock.block_on(limiter.try_acquire()).is_err());
        assert_eq!(clock.sleepers(), 0);
    }
}

#[test]
fn a_call_that_needs_the_tokens_of_two_requests_gets_them() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let builder = SharedRateLimiter::builder().store(store.clone()).key("key");
    let builder = builder.quota(Quota::per_second(500).burst(6));
    let builder = builder.sync(SyncMode::Exact).seed(1).clock(clock.clone());
    let limiter = builder.build().unwrap();
    store.set_latency(15 * MILLISECOND);
    // The limiter learns how long a trip takes.
    for _ in 0..100 {
        clock.block_on(limiter.try_acquire()).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    // Four tokens are on their way when the call that they are for is dropped.
    let mut dropped = Box::pin(limiter.acquire_n(4));
    assert!(poll(dropped.as_mut()).is_pending());
    let mut call = Box::pin(limiter.acquire_n(6));
    assert!(poll(call.as_mut()).is_pending());
    drop(dropped);
    for _ in 0..10 {
        clock.advance(15 * MILLISECOND);
        if let Poll::Ready(result) = poll(call.as_mut()) {
            return result.unwrap();
        }
    }
    panic!("the call waits after ten trips: {limiter:?}");
}

#[test]
fn a_turn_that_would_come_too_late_is_rejected_at_once() {
    let clock = ManualClock::new();
    let (limiter, _) = limiter(&clock, Quota::per_second(1).burst(1));
    clock.block_on(limiter.try_acquire()).unwrap();
    assert!(clock.block_on(limiter.try_acquire()).is_err());
    let half = Duration::from_millis(500);
    let rejected = clock.block_on(limiter.acquire_within(1, half)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::RateLimited);
    assert_eq!(rejected.retry_after(), Some(Duration::from_secs(1)));
    let late = backstop::deadline::scope_on(clock.clone(), half, limiter.acquire());
    let rejected = clock.block_on(late).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
    assert_eq!(
        backstop::Clock::now(&clock).as_nanos(),
        0,
        "none of them waited"
    );
}

#[test]
fn a_turn_that_comes_too_late_as_the_answer_shows_is_rejected_with_it() {
    let half = Duration::from_millis(500);
    for trip in [Duration::ZERO, Duration::from_millis(1)] {
        let clock = ManualClock::new();
        let (limiter, store) = limiter(&clock, Quota::per_second(1).burst(1));
        clock.block_on(limiter.try_acquire()).unwrap();
        store.set_latency(trip);
        // No rejection has told the process that the limit is used up.
        let late = backstop::deadline::scope_on(clock.clone(), half, limiter.acquire());
        let rejected = clock.block_on(late).unwrap_err();
        assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
        assert_eq!(rejected.retry_after(), Some(Duration::from_secs(1)));
        let waited = backstop::Clock::now(&clock).as_nanos();
        assert_eq!(u128::from(waited), trip.as_nanos(), "only for the answer");
    }
    // Behind a call that waits for its turn.
    let clock = ManualClock::new();
    let (limiter, _) = limiter(&clock, Quota::per_second(1).burst(1));
    clock.block_on(limiter.try_acquire()).unwrap();
    let second = Duration::from_millis(1500);
    let calls = [
        limiter.acquire_within(1, second),
        limiter.acquire_within(1, second),
    ];
    let [first, other] = clock.block_on(async {
        let [first, other] = calls;
        let (first, other) = futures::join!(first, other);
        [first, other]
    });
    assert_eq!(first, Ok(()));
    let rejected = other.unwrap_err();
    assert_eq!(rejected.reason(), Reason::RateLimited);
    assert_eq!(rejected.retry_after(), Some(Duration::from_secs(2)));
}

#[test]
fn a_waiter_is_served_when_the_store_is_lost() {
    let clock = ManualClock::new();
    let (limiter, store) = limiter(&clock, Quota::per_second(100).burst(1));
    for _ in 0..3 {
        clock.block_on(limiter.acquire()).unwrap();
    }
    store.set_fault(Some(Fault::Stall));
    let before = backstop::Clock::now(&clock);
    clock.block_on(limiter.acquire()).unwrap();
    let waited = backstop::Clock::now(&clock).saturating_duration_since(before);
    assert!(waited <= Duration::from_millis(200), "{waited:?}");
}

#[test]
fn calls_through_the_policy_wait_only_if_told_to() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let builder = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_second(10).burst(1))
        .clock(clock.clone());
    let call = || async { Ok::<_, std::io::Error>(1) };
    let strict = builder.clone().build().unwrap();
    assert!(clock.block_on(strict.call(call)).is_ok());
    let error = clock.block_on(strict.call(call)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rejected by shared_rate_limiter: rate limited, retry after 100ms"
    );
    let patient = builder.max_wait(Duration::from_secs(1)).build().unwrap();
    assert!(clock.block_on(patient.call(call)).is_ok());
    let stack = (
        Timeout::builder()
            .after(50 * MILLISECOND)
            .clock(clock.clone())
            .build()
            .unwrap(),
        &patient,
    );
    let error = clock.block_on(stack.call(call)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineTooClose));
    let costly = Pipeline::new(&strict);
    let error = clock
        .block_on(costly.with(CallOptions::new().cost(2)).call(call))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CostExceedsLimit));
}

#[test]
fn so_many_may_wait_and_no_more() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limiter = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_second(1))
        .max_waiting(2)
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.block_on(limiter.acquire()).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(limiter.acquire())).collect();
    let polls: Vec<_> = waiting.iter_mut().map(|call| poll(call.as_mut())).collect();
    assert!(polls[0].is_pending() && polls[1].is_pending());
    let Poll::Ready(Err(rejected)) = polls[2] else {
        panic!("the third is rejected");
    };
    assert_eq!(rejected.reason(), Reason::RateLimited);
    assert_eq!(limiter.snapshot().waiting, 2);
}

#[test]
fn a_waiter_looks_again_when_an_answer_comes_and_not_when_its_time_is_over() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    store.set_latency(MILLISECOND);
    let limiter = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_second(10).burst(1))
        .store_timeout(Duration::from_secs(10))
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.block_on(limiter.acquire()).unwrap();
    clock.block_on(limiter.acquire()).unwrap();
    let now = backstop::Clock::now(&clock).as_nanos();
    assert!(now <= 200_000_000, "{now} ns");
}

#[test]
fn a_lowered_quota_rejects_the_waiters_that_cost_more_than_its_burst() {
    for mode in [SyncMode::Leased, SyncMode::Exact] {
        let clock = ManualClock::new();
        let limiter = SharedRateLimiter::builder()
            .store(MemoryStore::new(clock.clone()))
            .key("key")
            .quota(Quota::per_second(100))
            .sync(mode)
            .clock(clock.clone())
            .build()
            .unwrap();
        clock.block_on(limiter.try_acquire_n(100)).unwrap();
        let (mut large, mut small) = (
            Box::pin(limiter.acquire_n(100)),
            Box::pin(limiter.acquire_n(10)),
        );
        assert!(poll(large.as_mut()).is_pending() && poll(small.as_mut()).is_pending());
        limiter.set_quota(Quota::per_second(10)).unwrap();
        let Poll::Ready(Err(rejected)) = poll(large.as_mut()) else {
            panic!("the large call still waits, {mode:?}");
        };
        assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
        for _ in 0..30 {
            clock.advance(100 * MILLISECOND);
            if poll(small.as_mut()).is_ready() {
                break;
            }
        }
        assert_eq!(limiter.snapshot().waiting, 0, "{mode:?}");
    }
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_loop_of_ready_acquires_lets_other_tasks_run() {
    let clock = ManualClock::new();
    let (limiter, _) = limiter(&clock, Quota::per_second(1_000_000));
    let ran = std::rc::Rc::new(std::cell::Cell::new(false));
    let other = ran.clone();
    let local = tokio::task::LocalSet::new();
    let ready = local.run_until(async {
        // Until a lease is there.
        for _ in 0..10 {
            limiter.acquire().await.unwrap();
        }
        tokio::task::spawn_local(async move { other.set(true) });
        let mut ready = 0;
        while !ran.get() && ready < 1000 {
            limiter.acquire().await.unwrap();
            ready += 1;
        }
        ready
    });
    let ready = ready.await;
    assert!((2..1000).contains(&ready), "{ready}");
}
