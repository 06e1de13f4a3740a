//! Limits per key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::rate_limiter::{Inherit, KeyedRateLimiter, KeyedRateLimiterBuilder, Overflow, Quota};
use backstop::{Clock, Event, ManualClock, Pipeline, Policy, Reason, Timeout};
use futures::FutureExt;
use futures::future::{join, join_all};
use proptest::prelude::*;

use super::{SECOND, ms, run};

fn builder<K>(clock: &ManualClock, quota: Quota) -> KeyedRateLimiterBuilder<K> {
    KeyedRateLimiter::builder()
        .quota(quota)
        .clock(clock.clone())
}

#[test]
fn each_key_has_its_own_bucket_and_strings_are_looked_up_borrowed() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<String> = builder(&clock, Quota::per_second(2)).build().unwrap();
    assert!(limits.try_acquire("a").is_ok() && limits.try_acquire("a").is_ok());
    let rejected = limits.try_acquire("a").unwrap_err();
    assert_eq!(rejected.retry_after(), Some(ms(500)));
    assert!(limits.try_acquire("b").is_ok());
    assert!(limits.try_acquire(&String::from("b")).is_err() || limits.peek("b").is_some());
    assert!(limits.peek("c").is_none());
    assert_eq!(limits.len(), 2);
    assert!(limits.forget("a") && !limits.forget("a"));
    assert!(limits.try_acquire("a").is_ok());
    let rejected = limits.try_acquire_n("a", 3).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
}

#[test]
fn nothing_remains_during_a_pause_as_in_a_limiter_of_its_own() {
    for quota in [Quota::per_second(10), Quota::per_second(10).sliding_log()] {
        for all in [false, true] {
            let clock = ManualClock::new();
            let limits: KeyedRateLimiter<u64> = builder(&clock, quota).build().unwrap();
            let alone = super::limiter(&clock, quota);
            limits.try_acquire(&1).unwrap();
            alone.try_acquire().unwrap();
            alone.pause_for(SECOND);
            match all {
                true => limits.pause_for(SECOND),
                false => assert!(limits.pause_key_for(&1, SECOND)),
            }
            assert_eq!(alone.peek().remaining, 0);
            assert_eq!(limits.peek(&1), Some(alone.peek()), "{quota}");
            assert_eq!(limits.decide(&1, 2), alone.decide(2), "{quota}");
            limits.for_each(|_, decision| assert_eq!(decision, alone.peek()));
            // Within the limit and its debt, beyond what is left by the end of the pause, and never.
            for cost in [5, 20, 21] {
                let rejected = alone.reserve(cost).unwrap_err();
                let of_key = limits.reserve(&1, cost).unwrap_err();
                assert_eq!(of_key.reason(), rejected.reason(), "{quota}: {cost}");
                assert_eq!(
                    of_key.retry_after(),
                    rejected.retry_after(),
                    "{quota}: {cost}"
                );
            }
        }
    }
}

#[test]
fn tiers_come_from_a_function() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(1))
        .quota_for(|key| match key % 3 {
            0 => None,
            1 => Some(Quota::per_second(10)),
            // Without meaning: counts as none.
            _ => Some(Quota::per_second(0)),
        })
        .build()
        .unwrap();
    for (key, burst) in [(0, 1), (1, 10), (2, 1), (3, 1), (4, 10)] {
        assert_eq!(limits.decide(&key, 1).limit, burst, "{key}");
    }
    // A change of the default quota applies to keys that have it.
    let new = Quota::per_second(5);
    limits.set_quota(new, Inherit::Reset).unwrap();
    for (key, remaining) in [(0, 4), (1, 8), (2, 4), (6, 4)] {
        assert_eq!(limits.decide(&key, 1).remaining, remaining, "{key}");
    }
    assert!(limits.set_quota(new.sliding_log(), Inherit::AsIs).is_err());
    let mut keys = Vec::new();
    limits.for_each(|key, decision| keys.push((*key, decision.limit)));
    keys.sort_unstable();
    assert_eq!(keys, [(0, 5), (1, 10), (2, 5), (3, 5), (4, 10), (6, 5)]);
}

#[test]
fn idle_keys_are_evicted_and_busy_ones_stay() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(10)).build().unwrap();
    for key in 0..5_000 {
        limits.try_acquire(&key).unwrap();
    }
    assert_eq!(limits.len(), 5_000);
    limits.decide(&1, 9);
    clock.advance(ms(100));
    // The others are full again, and calls evict those of their own shard: of twenty keys some are not alone.
    for call in 0..20_000 {
        let _ = limits.try_acquire_n(&(2 + call % 20), 0);
    }
    assert!(limits.len() < 5_000);
    limits.evict_idle();
    let mut keys = Vec::new();
    limits.for_each(|key, _| keys.push(*key));
    assert_eq!(keys, [1]);
    assert_eq!(limits.peek(&1).unwrap().remaining, 1);
    clock.advance(SECOND);
    limits.evict_idle();
    assert!(limits.is_empty());
}

#[test]
fn new_keys_without_room_are_rejected_or_share_a_limit() {
    let clock = ManualClock::new();
    for overflow in [Overflow::Reject, Overflow::Shared] {
        let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(2))
            .max_keys(3)
            .overflow(overflow)
            .build()
            .unwrap();
        for key in 0..3 {
            limits.try_acquire(&key).unwrap();
        }
        let admitted = (10..20)
            .filter(|key| limits.try_acquire(key).is_ok())
            .count();
        match overflow {
            Overflow::Reject => {
                assert_eq!(admitted, 0);
                let rejected = limits.try_acquire(&10).unwrap_err();
                assert_eq!(rejected.reason(), Reason::RateLimited);
                assert_eq!(rejected.retry_after(), None);
                assert!(!limits.decide(&10, 1).allowed);
            }
            _ => {
                assert_eq!(admitted, 2);
                assert_eq!(limits.decide(&10, 1).retry_after, Some(ms(500)));
            }
        }
        // Known keys keep their limits.
        for key in 0..3 {
            assert_eq!(limits.peek(&key).unwrap().remaining, 1);
        }
        // Once they are idle there is room again; the search for it goes round.
        clock.advance(SECOND);
        assert!(
            (10..200).any(|key| limits.try_acquire(&key).is_ok() && limits.peek(&key).is_some())
        );
    }
}

#[test]
fn a_small_limiter_finds_the_one_idle_key_before_a_new_one_has_no_room() {
    // Where keys are depends on a secret of each limiter.
    for (max_keys, _) in [1, 2, 3, 8, 64]
        .iter()
        .flat_map(|keys| (0..20).map(move |n| (*keys, n)))
    {
        let clock = ManualClock::new();
        for overflow in [Overflow::Reject, Overflow::Shared] {
            let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(1))
                .max_keys(max_keys)
                .overflow(overflow)
                .build()
                .unwrap();
            for key in 0..max_keys as u64 {
                limits.try_acquire(&key).unwrap();
            }
            clock.advance(SECOND);
            for key in 1..max_keys as u64 {
                limits.try_acquire(&key).unwrap();
            }
            limits.try_acquire(&1000).unwrap();
            assert!(limits.peek(&0).is_none(), "{max_keys} keys, {overflow:?}");
            assert_eq!(limits.peek(&1000).unwrap().remaining, 0);
        }
    }
}

#[test]
fn a_quota_that_is_too_large_is_named_and_not_the_debt_that_follows_from_it() {
    for quota in [
        Quota::per_day(1 << 41),
        Quota::per_second(1).burst(u64::MAX),
        Quota::per_second_f64(f64::INFINITY),
    ] {
        let clock = ManualClock::new();
        let error = builder::<u64>(&clock, quota).build().unwrap_err();
        assert_eq!(error.setting(), "quota", "{error}");
    }
}

#[test]
fn waiting_for_a_key_gives_turns_in_order_and_takes_nothing_when_cancelled() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(10).burst(1))
        .build()
        .unwrap();
    let served = run(
        &clock,
        join_all((0..4).map(|_| async {
            limits
                .acquire_within(&7, 1, ms(250))
                .await
                .map(|()| clock.now().as_nanos() / 1_000_000)
        })),
    );
    let times: Vec<_> = served.iter().filter_map(|time| time.ok()).collect();
    assert_eq!(times, [0, 100, 200]);
    assert_eq!(served[3].unwrap_err().retry_after(), Some(ms(300)));
    clock.advance(SECOND);

    limits.try_acquire(&7).unwrap();
    let cancelled = async {
        let waiting = Box::pin(limits.acquire_within(&7, 1, SECOND));
        let timer = Box::pin(clock.sleep(ms(50)));
        futures::future::select(waiting, timer).await;
    };
    run(&clock, cancelled);
    assert_eq!(limits.peek(&7).unwrap().retry_after, Some(ms(50)));
    let never = run(&clock, limits.acquire_n(&7, 2)).unwrap_err();
    assert_eq!(never.reason(), Reason::CostExceedsLimit);
    let late =
        backstop::deadline::scope_on(clock.clone(), ms(10), limits.acquire_within(&7, 1, SECOND));
    let late = run(&clock, late).unwrap_err();
    assert_eq!(late.reason(), Reason::DeadlineTooClose);
    assert_eq!(late.retry_after(), Some(ms(50)));
}

#[test]
fn a_key_is_a_policy() {
    let clock = ManualClock::new();
    for (longest, passes) in [(Duration::ZERO, false), (SECOND, true)] {
        let limits: KeyedRateLimiter<String> = builder(&clock, Quota::per_second(1))
            .max_wait(longest)
            .build()
            .unwrap();
        let call = || async { Ok::<_, ()>(()) };
        let alice = limits.get("alice");
        let (first, second) = run(&clock, join(alice.call(call), alice.call(call)));
        assert!(first.is_ok());
        assert_eq!(second.is_ok(), passes);
        assert!(run(&clock, limits.get("bob").call(call)).is_ok());
    }
}

#[test]
fn a_policy_that_waits_shows_the_operation_the_time_after_it_and_is_cancelled_without_a_trace() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<String> = builder(&clock, Quota::per_second(1))
        .max_wait(2 * SECOND)
        .build()
        .unwrap();
    limits.try_acquire("alice").unwrap();
    let timeout = |after| Timeout::builder().after(after).clock(clock.clone());
    let timeout = |after| timeout(after).build().unwrap();
    let stack = (
        timeout(5 * SECOND),
        limits.get("alice"),
        timeout(9 * SECOND),
    );
    let left = stack.call_with(|attempt| async move { Ok::<_, ()>(attempt.remaining().unwrap()) });
    assert_eq!(run(&clock, left), Ok(4 * SECOND));

    let call = || async { Ok::<_, ()>(()) };
    let alice = limits.get("alice");
    let mut waiting = Box::pin(alice.call(call));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(clock.sleepers(), 1);
    let turn = |limits: &KeyedRateLimiter<String>| limits.peek("alice").unwrap().retry_after;
    assert_eq!(turn(&limits), Some(2 * SECOND));
    drop(waiting);
    assert_eq!(clock.sleepers(), 0);
    assert_eq!(turn(&limits), Some(SECOND));

    // Whose deadline comes first does not begin to wait.
    let stack = (timeout(ms(999)), limits.get("alice"));
    let error = run(&clock, stack.call(call)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineTooClose));
    assert_eq!(turn(&limits), Some(SECOND));
}

#[test]
fn observers_get_a_rejection_of_the_policy_once() {
    let clock = ManualClock::new();
    for longest in [Duration::ZERO, ms(500)] {
        for overflow in [Overflow::Reject, Overflow::Shared] {
            let heard = Arc::new(AtomicU32::new(0));
            let hear = |heard: &Arc<AtomicU32>| {
                let heard = heard.clone();
                move |event: &Event| {
                    heard.fetch_add(u32::from(event.kind() == "rejected"), Ordering::Relaxed);
                }
            };
            let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::per_second(1))
                .max_keys(1)
                .overflow(overflow)
                .max_wait(longest)
                .observer(hear(&heard))
                .build()
                .unwrap();
            let call = |key: u64| {
                let pipeline = Pipeline::new(limits.get(&key)).observer(hear(&heard));
                let result = run(&clock, pipeline.call(|| async { Ok::<_, ()>(()) }));
                result.map_err(|error| error.reason())
            };
            let rejected = Err(Some(Reason::RateLimited));
            assert_eq!(call(1), Ok(()));
            assert_eq!(call(1), rejected);
            assert_eq!(heard.swap(0, Ordering::Relaxed), 2);
            // There is no room for this one.
            let first = match overflow {
                Overflow::Shared => Ok(()),
                _ => rejected,
            };
            assert_eq!(call(2), first);
            assert_eq!(call(2), rejected);
            assert_eq!(limits.snapshot().overflowed, 2);
            let refusals = 1 + u32::from(first.is_err());
            assert_eq!(heard.swap(0, Ordering::Relaxed), 2 * refusals);
        }
    }
}

#[test]
fn threads_share_one_bucket_per_key() {
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<u64> = builder(&clock, Quota::new(1, Duration::MAX).burst(100))
        .build()
        .unwrap();
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limits = &limits;
                scope.spawn(move || {
                    (0..5_000_u64)
                        .filter(|call| limits.try_acquire(&(call % 7)).is_ok())
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(admitted, 700);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However keys come and go, each is admitted what a bucket of its own would admit: forgetting
    /// loses nothing.
    #[test]
    fn forgetting_makes_no_difference(
        steps in prop::collection::vec((0_u64..40, 0_u64..300, 1_u64..4), 1..400),
    ) {
        let clock = ManualClock::new();
        let quota = Quota::per_second(10).burst(3);
        let limits: KeyedRateLimiter<u64> = builder(&clock, quota).build().unwrap();
        // When each bucket is full again, in milliseconds.
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut now = 0;
        for (key, pause, cost) in steps {
            now += pause;
            clock.advance(ms(pause));
            let full = model.entry(key).or_default();
            let taken = (*full).max(now) + cost * 100;
            let admitted = taken - now <= 300;
            prop_assert_eq!(limits.try_acquire_n(&key, cost).is_ok(), admitted);
            if admitted {
                *full = taken;
            }
            if pause % 7 == 0 {
                limits.evict_idle();
                prop_assert_eq!(limits.len(), model.values().filter(|full| **full > now).count());
            }
        }
    }
}

#[test]
fn tokens_of_a_reservation_do_not_reach_the_limit_of_a_key_that_was_forgotten_meanwhile() {
    let clock = ManualClock::new();
    let quota = Quota::per_second(1).burst(10);
    for commit in [false, true] {
        let limits: KeyedRateLimiter<u64> = builder(&clock, quota).build().unwrap();
        let reservation = limits.reserve(&1, 5).unwrap();
        assert_eq!(limits.peek(&1).unwrap().remaining, 5);
        assert!(limits.forget(&1));
        limits.try_acquire_n(&1, 5).unwrap();
        match commit {
            true => reservation.commit(1),
            false => reservation.refund(),
        }
        assert_eq!(limits.peek(&1).unwrap().remaining, 5);
    }
}

#[test]
fn a_key_with_a_reservation_stays_until_it_is_settled() {
    let clock = ManualClock::new();
    let quota = Quota::per_second(1).burst(10);
    for overflow in [Overflow::Reject, Overflow::Evict] {
        let limits = builder(&clock, quota).max_keys(1).overflow(overflow);
        let limits: KeyedRateLimiter<u64> = limits.build().unwrap();
        let reservation = limits.reserve(&1, 5).unwrap();
        clock.advance(SECOND * 20);
        limits.evict_idle();
        assert!(limits.try_acquire(&2).is_err(), "{overflow:?}");
        drop(reservation);
        limits.evict_idle();
        assert!(limits.try_acquire(&2).is_ok(), "{overflow:?}");
    }
}
