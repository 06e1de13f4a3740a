//! Waiting for tokens: order, bounds, cancellation, wake-ups.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use backstop::rate_limiter::{Inherit, Quota};
use backstop::{
    BlockingClock, Clock, Instant, KeyedRateLimiter, ManualClock, Policy, RateLimiter, Reason,
    Rejected,
};
use futures::future::{join, join_all, join3};
use proptest::prelude::*;

use super::{SECOND, builder, drain, limiter, ms, run};

/// Polls `first` once, as a `select!` does whose other branch wins, and awaits `second` before it.
async fn hold_first(
    clock: &ManualClock,
    first: impl Future<Output = Result<(), Rejected>>,
    second: impl Future<Output = Result<(), Rejected>>,
) {
    let start = clock.now();
    let mut first = pin!(first);
    let polled = poll_fn(|task| Poll::Ready(first.as_mut().poll(task))).await;
    assert!(polled.is_pending());
    second.await.unwrap();
    assert_eq!(clock.now(), start + 2 * SECOND);
    // The token of its turn is kept for it.
    first.await.unwrap();
    assert_eq!(clock.now(), start + 2 * SECOND);
}

#[test]
fn a_task_that_holds_the_first_waiter_without_polling_it_may_wait_behind_it() {
    let clock = ManualClock::new();
    let quota = Quota::per_second(1);
    let limiter = limiter(&clock, quota);
    let keyed = KeyedRateLimiter::<u8>::builder().quota(quota);
    let keyed = keyed.clock(clock.clone()).build().unwrap();
    run(&clock, async {
        limiter.try_acquire().unwrap();
        hold_first(&clock, limiter.acquire(), limiter.acquire()).await;
        keyed.try_acquire(&1).unwrap();
        hold_first(&clock, keyed.acquire(&1), keyed.acquire(&1)).await;
    });
}

#[test]
fn no_call_overtakes_a_waiter() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(5));
    drain(&limiter);
    let waiting = limiter.acquire_n(5);
    let other = async {
        clock.sleep(ms(200)).await;
        // There are two tokens, but the waiter needs them.
        let rejected = limiter.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(ms(400)));
        let decision = limiter.decide(1);
        assert!(!decision.allowed && decision.remaining == 0);
        assert_eq!(decision.retry_after, Some(ms(400)));
        assert_eq!(limiter.peek(), decision);
    };
    let (waited, ()) = run(&clock, join(waiting, other));
    waited.unwrap();
    assert_eq!(clock.now().as_nanos(), 500_000_000);
}

#[test]
fn a_waiter_that_leaves_the_middle_lets_all_behind_it_move_up() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let give_up = async {
        let waiting = Box::pin(limiter.acquire());
        let timer = Box::pin(clock.sleep(ms(500)));
        futures::future::select(waiting, timer).await;
    };
    let last = async {
        limiter.acquire().await.unwrap();
        clock.now().as_nanos()
    };
    let (first, (), last) = run(&clock, join3(limiter.acquire(), give_up, last));
    first.unwrap();
    assert_eq!(last, 2_000_000_000);
}

#[test]
fn cancelled_waiters_do_not_count_in_estimates() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let mut noop = Context::from_waker(Waker::noop());
    let mut first = Box::pin(limiter.acquire());
    let mut second = Box::pin(limiter.acquire_within(1, 2 * SECOND));
    assert!(first.as_mut().poll(&mut noop).is_pending());
    assert!(second.as_mut().poll(&mut noop).is_pending());
    let wait = || limiter.try_acquire().unwrap_err().retry_after();
    assert_eq!(wait(), Some(3 * SECOND));
    drop(second);
    assert_eq!(wait(), Some(2 * SECOND));
    drop(first);
    assert_eq!(wait(), Some(SECOND));
}

/// Counts how often it is woken.
struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn one_is_woken_at_a_time() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let woken = Arc::new(Counter(AtomicU32::new(0)));
    let waker = Waker::from(woken.clone());
    let mut task = Context::from_waker(&waker);
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(limiter.acquire())).collect();
    for waiter in &mut waiting {
        assert!(waiter.as_mut().poll(&mut task).is_pending());
    }
    // Only the first one has a timer.
    assert_eq!(clock.sleepers(), 1);
    clock.advance(SECOND);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(waiting.remove(0).as_mut().poll(&mut task).is_ready());
    // The one behind it, to set its own timer.
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
}

#[test]
fn a_cancelled_first_waiter_wakes_only_the_next() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let woken = Arc::new(Counter(AtomicU32::new(0)));
            let mut waiter = Box::pin(limiter.acquire());
            let waker = Waker::from(woken.clone());
            let poll = waiter.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(poll.is_pending());
            (waiter, woken)
        })
        .collect();
    let wakes = |waiting: &[(_, Arc<Counter>)]| -> Vec<u32> {
        let counts = waiting
            .iter()
            .map(|(_, woken)| woken.0.load(Ordering::Relaxed));
        counts.collect()
    };
    drop(waiting.remove(0));
    assert_eq!(wakes(&waiting), [1, 0]);
    drop(waiting.remove(1));
    assert_eq!(wakes(&waiting), [1]);
}

#[test]
fn a_full_queue_rejects_at_once() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).max_waiting(2);
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let all = join_all((0..4).map(|_| limiter.acquire()));
    let results = run(&clock, all);
    assert!(results[0].is_ok() && results[1].is_ok());
    for result in &results[2..] {
        let rejected = result.unwrap_err();
        assert_eq!(rejected.reason(), Reason::RateLimited);
        // Once the first waiter has left there is room.
        assert_eq!(rejected.retry_after(), Some(SECOND));
    }
}

#[test]
fn a_leaky_bucket_holds_so_many_and_lets_one_out_per_interval() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).leaky_bucket(3));
    let served = join_all((0..6).map(|_| async {
        let result = limiter.acquire().await;
        result.map(|()| clock.now().as_nanos() / 1_000_000)
    }));
    let served = run(&clock, served);
    // One is admitted at once, three wait, and the others are rejected.
    let left: Vec<_> = served.iter().filter_map(|left| left.ok()).collect();
    assert_eq!(left, [0, 100, 200, 300]);
    assert_eq!(served[5].unwrap_err().retry_after(), Some(ms(100)));
    let too_large = run(&clock, limiter.acquire_n(4)).unwrap_err();
    assert_eq!(too_large.reason(), Reason::CostExceedsLimit);
}

#[test]
fn a_cost_above_the_limit_is_not_waited_for() {
    let clock = ManualClock::new();
    for quota in [
        Quota::per_second(10),
        Quota::new(10, SECOND).sliding_log(),
        Quota::new(10, SECOND).sliding_counter(),
        Quota::new(10, SECOND).fixed_window(),
    ] {
        let limiter = limiter(&clock, quota);
        drain(&limiter);
        // Also from behind a waiter.
        let (first, second) = run(&clock, join(limiter.acquire(), limiter.acquire_n(11)));
        assert!(first.is_ok());
        let rejected = second.unwrap_err();
        assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
        assert_eq!(rejected.retry_after(), None);
    }
}

#[test]
fn a_new_quota_applies_to_waiters() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_hour(1));
    drain(&limiter);
    let change = async {
        clock.sleep(SECOND).await;
        limiter
            .set_quota(Quota::per_second(1), Inherit::AsIs)
            .unwrap();
    };
    let (waited, ()) = run(&clock, join(limiter.acquire(), change));
    waited.unwrap();
    assert!(clock.now().as_nanos() <= 2_000_000_000);

    // A lower rate too: a waiter that can no longer be served in time is rejected.
    let limiter = super::limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let change = async {
        clock.sleep(ms(100)).await;
        limiter
            .set_quota(Quota::per_hour(1), Inherit::AsIs)
            .unwrap();
    };
    let waiting = limiter.acquire_within(1, 2 * SECOND);
    let (waited, ()) = run(&clock, join(waiting, change));
    assert_eq!(waited.unwrap_err().reason(), Reason::QueueTimeout);
}

#[test]
fn tokens_that_come_back_wake_the_first() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_hour(1));
    let reservation = limiter.reserve(1).unwrap();
    let back = async {
        clock.sleep(SECOND).await;
        reservation.refund();
    };
    let (waited, ()) = run(&clock, join(limiter.acquire(), back));
    waited.unwrap();
    assert_eq!(clock.now().as_nanos(), 1_000_000_000);
}

#[test]
fn it_works_without_a_runtime() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(1_000_000).burst(1))
        .clock(BlockingClock)
        .build()
        .unwrap();
    for _ in 0..20 {
        limiter.acquire_blocking(1).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random calls with random costs and limits of their waits: each is served or rejected, none before
    /// an earlier one, no window admits more than its bound, and nothing is left behind.
    #[test]
    fn a_crowd_is_served_in_order_and_within_the_limit(
        burst in 1_u64..6,
        callers in prop::collection::vec((0_u64..400, 1_u64..6, 0_u64..3000, any::<bool>()), 1..30),
        algorithm in 0..4,
    ) {
        let clock = ManualClock::new();
        let quota = match algorithm {
            0 => Quota::new(1, ms(100)).burst(burst),
            1 => Quota::new(burst, ms(500)).fixed_window(),
            2 => Quota::new(burst, ms(500)).sliding_log(),
            _ => Quota::new(burst, ms(500)).sliding_counter(),
        };
        let limiter = limiter(&clock, quota);
        let served = std::cell::RefCell::new(Vec::new());
        let arrived = Cell::new(0);
        run(&clock, join_all(callers.iter().map(|&(at, cost, patience, cancels)| {
            let (clock, limiter, served, arrived) = (&clock, &limiter, &served, &arrived);
            async move {
                clock.sleep(ms(at)).await;
                let place = arrived.replace(arrived.get() + 1);
                let start = clock.now();
                if cancels {
                    let waiting = Box::pin(limiter.acquire_n(cost));
                    let timer = Box::pin(clock.sleep(ms(patience)));
                    match futures::future::select(waiting, timer).await {
                        futures::future::Either::Left((Ok(()), _)) => {}
                        _ => return,
                    }
                } else if limiter.acquire_within(cost, ms(patience)).await.is_err() {
                    return;
                }
                let waited = clock.now().saturating_duration_since(start);
                assert!(waited <= ms(patience), "{waited:?}");
                served.borrow_mut().push((place, clock.now().as_nanos(), cost));
            }
        })));
        let served = served.into_inner();
        // Of those served at one instant, the executor decides which one notices first.
        let mut by_place = served.clone();
        by_place.sort_unstable();
        prop_assert!(by_place.is_sorted_by_key(|(_, at, _)| *at), "{by_place:?}");
        for (first, (_, start, _)) in served.iter().enumerate() {
            let mut sum = 0;
            for (_, end, cost) in &served[first..] {
                sum += cost;
                let passed = end - start;
                let bound = match algorithm {
                    0 => burst + passed / 100_000_000,
                    // Two windows, or their share, can touch any stretch; and one more for each.
                    _ => burst * (passed / 500_000_000 + 2),
                };
                prop_assert!(sum <= bound, "{sum} in {passed} ns: {served:?}");
            }
        }
        prop_assert_eq!((limiter.snapshot().waiting, clock.sleepers()), (0, 0));
        // Nothing was lost: when all is earned it is full.
        clock.advance(Duration::from_secs(60));
        prop_assert_eq!(limiter.peek().remaining, burst);
    }
}

/// A process that was stopped, or a machine that slept, must not flood the dependency.
#[test]
fn after_a_long_stall_no_more_are_served_at_once_than_the_burst_and_a_timers_lateness() {
    for (quota, burst) in [
        (Quota::per_second(1000).burst(1), 1),
        (Quota::per_second(1000).burst(50), 50),
        (Quota::per_second(1000).leaky_bucket(100_000), 1),
        (Quota::per_second(1000).burst(50).warm_up(SECOND, 3), 50),
    ] {
        let clock = ManualClock::new();
        let limiter = builder(&clock, quota).build().unwrap();
        while limiter.try_acquire().is_ok() {}
        let mut waiters: Vec<_> = (0..5000).map(|_| Box::pin(limiter.acquire())).collect();
        let mut poll_all = || {
            let mut task = Context::from_waker(Waker::noop());
            let before = waiters.len();
            waiters.retain_mut(|waiter| waiter.as_mut().poll(&mut task).is_pending());
            before - waiters.len()
        };
        poll_all();
        clock.advance(3600 * SECOND);
        let served = poll_all();
        assert!((1..=burst + 12).contains(&served), "{served} for {quota:?}");
        // Then at the rate.
        for _ in 0..100 {
            clock.advance(ms(1));
            assert!(poll_all() <= 2);
        }
    }
}

#[test]
fn the_longest_wait_is_that_of_calls_through_the_policy_and_not_of_acquire() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).max_wait(SECOND / 2);
    let limiter = limiter.build().unwrap();
    run(&clock, async {
        limiter.try_acquire().unwrap();
        let call = limiter.call(|| async { Ok::<_, ()>(()) }).await;
        assert_eq!(call.unwrap_err().reason(), Some(Reason::RateLimited));
        let within = limiter.acquire_within(1, SECOND / 2).await;
        assert_eq!(within.unwrap_err().reason(), Reason::RateLimited);
        assert_eq!(clock.now(), Instant::ORIGIN);
        limiter.acquire().await.unwrap();
        assert_eq!(clock.now(), Instant::ORIGIN + SECOND);
    });
}
