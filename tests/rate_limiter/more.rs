//! When more tokens are left than a decision reports.

use std::time::Duration;

use backstop::ManualClock;
use backstop::rate_limiter::{Decision, KeyedRateLimiter, Quota};
use proptest::prelude::*;

use super::{SECOND, builder, limiter, ms};

const NANO: Duration = Duration::from_nanos(1);

/// Checks `more_after` of a decision against the remaining number that `remaining` returns later.
fn check(clock: &ManualClock, decision: Decision, remaining: impl Fn() -> u64) {
    let before = decision.remaining;
    match decision.more_after {
        Some(after) => {
            assert!(after > Duration::ZERO, "{decision:?}");
            clock.advance(after - NANO);
            assert_eq!(remaining(), before, "a nanosecond before: {decision:?}");
            clock.advance(NANO);
            assert!(remaining() > before, "then: {decision:?}");
        }
        None => {
            for _ in 0..50 {
                clock.advance(decision.reset_after.max(decision.window) / 7);
                assert_eq!(remaining(), before, "there is no more: {decision:?}");
            }
        }
    }
}

fn quota() -> impl Strategy<Value = Quota> {
    let period = prop_oneof![10_u64..1000, Just(1_000_000_000), 50_u64..7_000_000_000];
    (0_u8..8, 1_u64..10, period, 1_u64..30).prop_map(|(kind, tokens, period, burst)| {
        let quota = Quota::new(tokens, Duration::from_nanos(period));
        match kind {
            0 => quota,
            1 => quota.burst(burst),
            2 => quota.leaky_bucket(burst),
            3 => quota.fixed_window(),
            4 => quota.fixed_window_from_first(),
            5 => quota.sliding_log(),
            6 => quota.sliding_counter(),
            _ => quota.warm_up(Duration::from_nanos(period * 3), 3),
        }
    })
}

/// Pauses, as parts of the longest window, and costs.
fn calls() -> impl Strategy<Value = Vec<(u32, u64)>> {
    let pause = prop_oneof![Just(0), 0_u32..200, 0_u32..2000];
    prop::collection::vec((pause, 0_u64..6), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_remaining_number_grows_at_the_stated_time_and_not_before(
        quotas in prop::collection::vec(quota(), 1..4),
        calls in calls(),
        debt in 0_u64..8,
        peeks in any::<bool>(),
    ) {
        let clock = ManualClock::new();
        let mut limits = builder(&clock, quotas[0]).max_debt(debt);
        for quota in &quotas[1..] {
            limits = limits.quota(*quota);
        }
        let limits = limits.build().unwrap();
        let longest = quotas.iter().map(Quota::period).max().unwrap();
        for (pause, cost) in calls {
            clock.advance(longest * pause / 1000);
            if cost == 5 {
                if let Ok(reservation) = limits.reserve(cost) {
                    reservation.commit(cost + debt);
                }
            }
            let decided = limits.decide(cost);
            let decision = if peeks { limits.peek_n(cost) } else { decided };
            check(&clock, decision, || limits.peek().remaining);
        }
    }

    #[test]
    fn the_remaining_number_of_stripes_and_keys_grows_at_the_stated_time(
        (tokens, burst) in (1_u64..10, 4_u64..30),
        period in prop_oneof![10_u64..1000, 50_u64..7_000_000_000],
        calls in calls(),
        debt in 0_u64..20,
    ) {
        let clock = ManualClock::new();
        let quota = Quota::new(tokens, Duration::from_nanos(period)).burst(burst);
        let striped = builder(&clock, quota).stripes(4).max_debt(debt).build().unwrap();
        let keyed = KeyedRateLimiter::<u8>::builder().quota(quota).clock(clock.clone()).build().unwrap();
        for (pause, cost) in calls {
            clock.advance(quota.period() * pause / 1000);
            if let Ok(reservation) = striped.reserve(cost) {
                reservation.commit(cost + debt / 2);
            }
            check(&clock, striped.decide(cost), || striped.peek().remaining);
            check(&clock, keyed.decide(&1, cost), || keyed.peek(&1).unwrap().remaining);
        }
    }
}

#[test]
fn a_token_comes_before_the_limit_is_full() {
    let clock = ManualClock::new();
    let limits = limiter(&clock, Quota::per_second(10).burst(50));
    assert_eq!(limits.peek().more_after, None);
    let decision = limits.decide(50);
    assert_eq!(decision.reset_after, 5 * SECOND);
    assert_eq!(decision.more_after, Some(ms(100)));
    clock.advance(ms(30));
    assert_eq!(limits.peek_n(20).more_after, Some(ms(70)));
    assert_eq!(limits.peek_n(20).retry_after, Some(ms(1970)));
    // Never admitted, but the number grows.
    assert_eq!(limits.decide(51).more_after, Some(ms(70)));
}

#[test]
fn of_several_quotas_all_must_have_more() {
    let clock = ManualClock::new();
    let limits = builder(&clock, Quota::per_second(10))
        .quota(Quota::per_hour(15).fixed_window())
        .build()
        .unwrap();
    // Four and nine are left: the bucket grows first.
    assert_eq!(limits.decide(6).more_after, Some(ms(100)));
    clock.advance(SECOND);
    // Four and three are left, then ten and three.
    assert_eq!(limits.decide(6).more_after, Some(3599 * SECOND));
    // A limit of ten never has more than ten.
    clock.advance(3600 * SECOND);
    let full = limits.decide(5);
    assert_eq!((full.remaining, full.more_after), (5, Some(ms(100))));
    clock.advance(SECOND);
    let full = limits.peek();
    assert_eq!(
        (full.limit, full.remaining, full.more_after),
        (10, 10, None)
    );
}

#[test]
fn behind_waiters_and_during_a_pause_more_comes_after_them() {
    let clock = ManualClock::new();
    let limits = limiter(&clock, Quota::per_second(10));
    limits.try_acquire_n(10).unwrap();
    clock.block_on(async {
        let mut waiter = std::pin::pin!(limits.acquire_n(3));
        assert!(futures::poll!(&mut waiter).is_pending());
        for cost in [0, 1, 4] {
            let decision = limits.peek_n(cost);
            assert_eq!(
                (decision.remaining, decision.more_after),
                (0, Some(ms(400)))
            );
            assert_eq!(limits.decide(cost).more_after, Some(ms(400)), "{cost}");
        }
    });
    limits.pause_for(3 * SECOND);
    assert_eq!(limits.decide(2).more_after, Some(3 * SECOND));
    check(&clock, limits.peek(), || limits.peek().remaining);

    for quota in [Quota::per_second(10), Quota::per_second(10).sliding_log()] {
        let keyed = KeyedRateLimiter::<u8>::builder()
            .quota(quota)
            .clock(clock.clone())
            .build()
            .unwrap();
        assert!(keyed.decide(&1, 10).allowed);
        keyed.pause_key_for(&1, ms(50));
        let token = if quota == Quota::per_second(10) {
            ms(100)
        } else {
            SECOND
        };
        assert_eq!(keyed.decide(&1, 3).more_after, Some(token));
        keyed.pause_key_for(&1, 2 * SECOND);
        assert_eq!(keyed.peek_n(&1, 3).unwrap().more_after, Some(2 * SECOND));
        assert_eq!(keyed.decide(&1, 1).more_after, Some(2 * SECOND));
    }
}
