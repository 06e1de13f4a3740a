//! Options of keyed limiters: algorithms, waiting, reservations, shadow mode, pauses, and keys without room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::rate_limiter::{Inherit, KeyedRateLimiter, KeyedRateLimiterBuilder, Overflow, Quota};
use backstop::{Clock, Event, ManualClock, Policy, RateLimiter, Reason};
use futures::FutureExt;
use futures::future::join_all;
use proptest::prelude::*;

use super::{SECOND, ms, run};

fn builder(clock: &ManualClock, quota: Quota) -> KeyedRateLimiterBuilder<u64> {
    KeyedRateLimiter::builder()
        .quota(quota)
        .clock(clock.clone())
}

pub(super) fn limits(clock: &ManualClock, quota: Quota) -> KeyedRateLimiter<u64> {
    builder(clock, quota).build().unwrap()
}

const ALGORITHMS: [Quota; 7] = [
    Quota::per_second(10).burst(10),
    Quota::per_second(10).leaky_bucket(10),
    Quota::per_second(10).fixed_window(),
    Quota::per_second(10).fixed_window_from_first(),
    Quota::per_second(10).sliding_log(),
    Quota::per_second(10).sliding_counter(),
    Quota::per_second(10).warm_up(Duration::from_secs(1), 3),
];

#[test]
fn a_tier_that_equals_the_default_when_its_key_is_added_keeps_its_quota() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_second(100))
        .quota_for(|key| (*key == 7).then_some(Quota::per_second(100)))
        .build()
        .unwrap();
    assert_eq!(limits.decide(&7, 1).limit, 100);
    assert_eq!(limits.decide(&1, 1).limit, 100);
    limits
        .set_quota(Quota::per_second(1), Inherit::AsIs)
        .unwrap();
    assert_eq!(limits.peek(&7).unwrap().limit, 100);
    assert_eq!(limits.peek(&1).unwrap().limit, 1);
}

#[test]
fn a_change_of_the_default_quota_leaves_tiers_alone_even_those_of_the_same_value() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_second(1))
        .quota_for(|key| (*key == 7).then_some(Quota::per_second(100)))
        .build()
        .unwrap();
    assert_eq!(limits.decide(&7, 1).limit, 100);
    assert_eq!(limits.decide(&1, 1).limit, 1);
    for (tokens, paid) in [(100, 1), (1, 1)] {
        limits
            .set_quota(Quota::per_second(tokens), Inherit::Reset)
            .unwrap();
        assert_eq!(limits.decide(&1, 0).limit, tokens);
        assert_eq!(limits.peek(&7).unwrap().limit, 100);
        assert_eq!(limits.peek(&7).unwrap().remaining, 100 - paid);
        assert_eq!(limits.decide(&(10 + tokens), 0).limit, tokens, "new");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each key is admitted what a limiter of its own would admit, whatever the algorithm and whether
    /// it is the default or a tier, and eviction makes no difference.
    #[test]
    fn each_key_has_a_limiter_of_its_own_with_any_algorithm(
        algorithm in 0..ALGORITHMS.len(),
        is_tier in any::<bool>(),
        steps in prop::collection::vec((0_u64..4, 0_u64..400, 1_u64..4), 1..80),
    ) {
        let clock = ManualClock::new();
        let quota = ALGORITHMS[algorithm];
        let limits = match is_tier {
            true => builder(&clock, Quota::per_hour(1)).quota_for(move |_| Some(quota)),
            false => builder(&clock, quota),
        };
        let limits = limits.build().unwrap();
        let alone: Vec<_> = (0..4)
            .map(|_| RateLimiter::builder().quota(quota).clock(clock.clone()).build().unwrap())
            .collect();
        for (key, pause, cost) in steps {
            clock.advance(ms(pause));
            if pause % 3 == 0 {
                limits.evict_idle();
            }
            if let Some(peeked) = limits.peek_n(&key, cost) {
                prop_assert_eq!(peeked, alone[key as usize].peek_n(cost));
            }
            let expected = alone[key as usize].try_acquire_n(cost);
            let decided = limits.try_acquire_n(&key, cost);
            prop_assert_eq!(decided.is_ok(), expected.is_ok());
            prop_assert_eq!(
                decided.err().map(|rejected| (rejected.reason(), rejected.retry_after())),
                expected.err().map(|rejected| (rejected.reason(), rejected.retry_after()))
            );
        }
    }
}

#[test]
fn with_every_algorithm_calls_wait_for_their_turns_as_in_a_limiter() {
    for quota in ALGORITHMS {
        let times = |limits: Option<KeyedRateLimiter<u64>>, clock: &ManualClock| {
            let alone = RateLimiter::builder().quota(quota).clock(clock.clone());
            let alone = alone.name("keyed_rate_limiter").build().unwrap();
            let served = join_all((0..25).map(|_| async {
                let result = match &limits {
                    Some(limits) => limits.acquire(&7).await,
                    None => alone.acquire().await,
                };
                result.map(|()| clock.now())
            }));
            run(clock, served)
        };
        let clock = ManualClock::new();
        let keyed = times(Some(limits(&clock, quota)), &clock);
        assert_eq!(keyed, times(None, &ManualClock::new()), "{quota:?}");
    }
}

#[test]
fn several_quotas_hold_for_each_key() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_second(3))
        .quota(Quota::per_hour(5).fixed_window())
        .build()
        .unwrap();
    let mut admitted = 0;
    for _ in 0..10 {
        admitted += (0..5).filter(|_| limits.try_acquire(&1).is_ok()).count();
        clock.advance(SECOND);
    }
    assert_eq!(admitted, 5);
    assert!(limits.try_acquire(&2).is_ok());
}

#[test]
fn a_cancelled_waiter_gives_its_tokens_back_with_every_algorithm() {
    for quota in ALGORITHMS {
        let clock = ManualClock::new();
        let limits = limits(&clock, quota);
        while limits.try_acquire(&1).is_ok() {}
        let before = limits.peek(&1);
        let mut waiting = Box::pin(limits.acquire(&1));
        assert!(waiting.as_mut().now_or_never().is_none(), "{quota:?}");
        drop(waiting);
        assert_eq!(limits.peek(&1), before, "{quota:?}");
        assert_eq!(clock.sleepers(), 0, "{quota:?}");
    }
}

#[test]
fn a_reservation_is_settled_at_what_was_consumed() {
    for quota in [
        Quota::per_second(10).burst(100),
        Quota::new(100, 10 * SECOND).fixed_window(),
        Quota::new(100, 10 * SECOND).sliding_log(),
    ] {
        let clock = ManualClock::new();
        let limits = limits(&clock, quota);
        let remaining = || limits.peek(&1).unwrap().remaining;
        let reservation = limits.reserve(&1, 60).unwrap();
        assert_eq!((reservation.cost(), remaining()), (60, 40));
        reservation.commit(25);
        assert_eq!(remaining(), 75);
        limits.reserve(&1, 10).unwrap().commit(30);
        assert_eq!(remaining(), 45);
        drop(limits.reserve(&1, 40).unwrap());
        limits.reserve(&1, 40).unwrap().refund();
        assert_eq!(remaining(), 45);
        // In debt, up to as much as the quota holds.
        let debt = limits.reserve(&1, 100).unwrap();
        assert!(debt.wait() > Duration::ZERO);
        assert!(limits.try_acquire(&1).is_err());
        let rejected = limits.reserve(&1, 100).unwrap_err();
        assert_eq!(rejected.reason(), Reason::RateLimited);
        drop(debt);
        assert!(limits.reserve_within(&1, 90, ms(1)).is_err());
        assert_eq!(remaining(), 45, "nothing was taken in vain");
        limits.reserve(&1, 5).unwrap().commit(60);
        assert!(
            limits.try_acquire(&1).is_err(),
            "what was consumed is charged"
        );
    }
}

#[test]
fn in_shadow_mode_calls_are_admitted_counted_and_reported() {
    let clock = ManualClock::new();
    let heard = Arc::new(AtomicU32::new(0));
    let hear = heard.clone();
    let limits = builder(&clock, Quota::per_second(1))
        .shadow(true)
        .observer(move |event: &Event| {
            hear.fetch_add(u32::from(event.kind() == "would_reject"), Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let call = || async { Ok::<_, ()>(()) };
    for _ in 0..3 {
        assert!(limits.try_acquire(&1).is_ok());
    }
    // Would wait, and is not rejected.
    assert!(run(&clock, limits.acquire(&1)).is_ok());
    assert!(run(&clock, limits.get(&1).call(call)).is_ok());
    assert!(limits.reserve(&1, 10).is_ok());
    assert!(!limits.decide(&1, 1).allowed, "the real decision");
    let snapshot = limits.snapshot();
    assert_eq!((snapshot.shadow, snapshot.would_reject), (true, 5));
    // All but that of `decide`.
    assert_eq!(heard.load(Ordering::Relaxed), 4);
}

#[test]
fn rejections_are_counted_whatever_made_them() {
    let clock = ManualClock::new();
    let limits = limits(&clock, Quota::per_second(1));
    let call = || async { Ok::<_, ()>(()) };
    limits.try_acquire(&1).unwrap();
    assert!(limits.try_acquire(&1).is_err());
    assert!(!limits.decide(&1, 1).allowed);
    assert!(run(&clock, limits.acquire_within(&1, 1, ms(1))).is_err());
    assert!(run(&clock, limits.get(&1).call(call)).is_err());
    assert!(limits.reserve_within(&1, 1, ms(1)).is_err());
    let snapshot = limits.snapshot();
    assert_eq!((snapshot.rejected, snapshot.would_reject), (5, 0));
}

#[test]
fn with_overflow_by_eviction_the_key_nearest_to_new_makes_room() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_hour(10).burst(10))
        .max_keys(5)
        .overflow(Overflow::Evict)
        .build()
        .unwrap();
    for key in 0..5 {
        limits.try_acquire_n(&key, 2 + (key + 2) % 5).unwrap();
    }
    assert!(limits.try_acquire_n(&10, 9).is_ok());
    let mut keys = Vec::new();
    limits.for_each(|key, _| keys.push(*key));
    keys.sort_unstable();
    assert_eq!(keys, [0, 1, 2, 4, 10], "3 had used the least");
    for key in 100..10_000 {
        assert!(limits.try_acquire(&key).is_ok());
        assert!(limits.len() <= 5);
    }
    assert_eq!(limits.snapshot().overflowed, 0);
}

#[test]
fn with_overflow_by_eviction_a_key_that_is_waited_for_or_paused_stays() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_hour(1).sliding_log())
        .max_keys(2)
        .overflow(Overflow::Evict)
        .build()
        .unwrap();
    limits.try_acquire(&1).unwrap();
    let mut waiting = Box::pin(limits.acquire(&1));
    assert!(waiting.as_mut().now_or_never().is_none());
    for key in 10..20 {
        assert!(limits.try_acquire(&key).is_ok());
    }
    assert!(limits.peek(&1).is_some_and(|decision| !decision.allowed));
    drop(waiting);
    assert!(limits.try_acquire(&20).is_ok() && limits.try_acquire(&21).is_ok());
    assert_eq!(limits.len(), 2);
}

#[test]
fn a_large_set_evicts_by_a_sample_and_never_exceeds_its_bound() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_hour(10).burst(10))
        .max_keys(1000)
        .overflow(Overflow::Evict)
        .build()
        .unwrap();
    // Used up, and so the last to be like new ones.
    for key in 0..500 {
        limits.try_acquire_n(&key, 10).unwrap();
    }
    for key in 1000..6000 {
        assert!(limits.try_acquire(&key).is_ok());
        assert!(limits.len() <= 1000);
    }
    let kept = (0..500).filter(|key| limits.peek(key).is_some()).count();
    assert!(kept > 450, "{kept} of 500");
}

#[test]
fn calls_by_keys_with_lifetimes_in_their_types_can_be_spawned() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let clock = ManualClock::new();
    let limits: KeyedRateLimiter<&'static str> = KeyedRateLimiter::builder()
        .quota(Quota::per_second(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    let task = is_send(async move {
        let _ = limits.acquire(&"a").await;
        let reserved = limits
            .reserve(&"a", 1)
            .map(|reservation| reservation.commit(1));
        (limits.try_acquire(&"a").is_ok(), reserved.is_ok())
    });
    assert_eq!(run(&clock, task), (false, true));
}

#[test]
fn decisions_in_shadow_mode_count_as_calls_that_would_be_rejected() {
    for (shadow, counts) in [(false, (2, 0)), (true, (0, 2))] {
        let limits = KeyedRateLimiter::<u32>::builder()
            .quota(Quota::per_hour(1))
            .shadow(shadow)
            .clock(ManualClock::new())
            .build()
            .unwrap();
        let allowed = (0..3).filter(|_| limits.decide(&1, 1).allowed).count();
        let snapshot = limits.snapshot();
        assert_eq!(
            (allowed, (snapshot.rejected, snapshot.would_reject)),
            (1, counts)
        );
    }
}

#[test]
fn shadow_mode_reports_what_a_keyed_limiter_that_waits_would_reject() {
    for quota in [
        Quota::per_second(10),
        Quota::per_second(10).leaky_bucket(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).sliding_log(),
    ] {
        let rejected = |shadow: bool| {
            let clock = ManualClock::new();
            let limits = builder(&clock, quota)
                .shadow(shadow)
                .max_wait(SECOND)
                .build()
                .unwrap();
            let calls = || async { Ok::<_, ()>(()) };
            let limit = limits.get(&1);
            let mut waiting = Vec::new();
            for round in 0..100 {
                for _ in 0..round % 5 {
                    let mut call = Box::pin(limit.call(calls));
                    if call.as_mut().now_or_never().is_none() {
                        waiting.push(call);
                    }
                }
                clock.advance(ms(100));
                waiting.retain_mut(|call| call.as_mut().now_or_never().is_none());
            }
            drop(waiting);
            let snapshot = limits.snapshot();
            // The first sweep serves what shadow mode queued. Windows count that as taken now.
            for _ in 0..2 {
                clock.advance(3600 * SECOND);
                limits.evict_idle();
            }
            assert_eq!(limits.len(), 0, "{quota}: the key is idle");
            snapshot.rejected + snapshot.would_reject
        };
        assert!(rejected(false) > 0);
        assert_eq!(rejected(true), rejected(false), "{quota}");
    }
}
