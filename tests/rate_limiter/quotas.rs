//! Decisions, reservations, several quotas, and quotas that change.

use std::time::Duration;

use backstop::rate_limiter::{Inherit, Quota};
use backstop::{Clock, Keyed, ManualClock, RateLimiter, Reason};
use proptest::prelude::*;

use super::{SECOND, Skewed, builder, drain, limiter, ms, run};

#[test]
fn the_burst_is_the_number_given_unless_told_otherwise() {
    let table = [
        (Quota::per_second(100), 100),
        (Quota::per_minute(10), 10),
        (Quota::per_hour(1000), 1000),
        (Quota::per_day(1), 1),
        (Quota::new(10, ms(100)), 10),
        (Quota::per_second_f64(2.5), 3),
        (Quota::per_second_f64(0.2), 1),
        (Quota::per_second(100).burst(7), 7),
        (Quota::per_minute(90).fixed_window(), 90),
        (Quota::per_minute(90).sliding_log(), 90),
        (Quota::per_minute(90).sliding_counter(), 90),
    ];
    for (quota, limit) in table {
        let clock = ManualClock::new();
        let limiter = limiter(&clock, quota);
        assert_eq!(quota.limit(), limit);
        assert_eq!(drain(&limiter), limit, "{quota:?}");
    }
}

#[test]
fn a_decision_is_one_look() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(4));
    let decision = limiter.decide(3);
    assert!(decision.allowed);
    assert_eq!((decision.limit, decision.remaining), (4, 1));
    assert_eq!(decision.reset_after, ms(300));
    assert_eq!(decision.retry_after, None);

    let decision = limiter.decide(3);
    assert!(!decision.allowed);
    assert_eq!((decision.limit, decision.remaining), (4, 1));
    assert_eq!(decision.retry_after, Some(ms(200)));

    // Looking changes nothing.
    assert_eq!(limiter.peek_n(3), decision);
    assert_eq!(limiter.peek_n(3), decision);
    let never = limiter.decide(5);
    assert!(!never.allowed && never.retry_after.is_none());
    let rejected = limiter.try_acquire_n(5).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
}

#[test]
fn of_several_quotas_the_tightest_is_reported() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(10))
        .quota(Quota::per_hour(15).fixed_window())
        .build()
        .unwrap();
    let decision = limiter.decide(6);
    assert_eq!((decision.limit, decision.remaining), (10, 4));
    clock.advance(SECOND);
    let decision = limiter.decide(6);
    assert_eq!((decision.limit, decision.remaining), (15, 3));
    let decision = limiter.decide(4);
    assert_eq!(decision.retry_after, Some(Duration::from_secs(3599)));
    // Waits for the one and then for the other.
    assert_eq!(run(&clock, limiter.acquire_n(4)), Ok(()));
    assert_eq!(clock.now().as_nanos(), 3_600_000_000_000);
}

#[test]
fn a_reservation_may_go_into_debt_up_to_its_bound() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(10)).max_debt(5);
    let limiter = limiter.build().unwrap();
    let first = limiter.reserve(12).unwrap();
    assert_eq!(first.wait(), ms(200));
    assert_eq!(limiter.snapshot().available, [-2]);
    let rejected = limiter.reserve(4).unwrap_err();
    assert_eq!(rejected.retry_after(), Some(ms(100)));
    let rejected = limiter.reserve(16).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
    // Debts come before anybody else.
    assert_eq!(
        limiter.try_acquire().unwrap_err().retry_after(),
        Some(ms(300))
    );

    // A cost that turned out larger is charged as far as debts go.
    first.commit(1000);
    assert_eq!(limiter.snapshot().available, [-5]);
    clock.advance(SECOND);
    let reservation = limiter.reserve(5).unwrap();
    assert_eq!(reservation.cost(), 5);
    reservation.commit(2);
    assert_eq!(limiter.snapshot().available, [3]);
    // Within a time or not at all.
    assert!(limiter.reserve_within(5, ms(199)).is_err());
    assert_eq!(limiter.snapshot().available, [3]);
    limiter.reserve_within(5, ms(200)).unwrap().commit(5);
}

#[test]
fn quotas_change_with_what_they_inherit() {
    // Of 10 tokens 4 are left, and the limit becomes 20.
    let table = [
        (Inherit::AsIs, 4),
        (Inherit::Proportional, 8),
        (Inherit::Additive, 14),
        (Inherit::Reset, 20),
    ];
    let kinds: [fn(u64) -> Quota; 4] = [
        |limit| Quota::per_second(limit).burst(limit),
        |limit| Quota::per_second(limit).fixed_window(),
        |limit| Quota::per_second(limit).sliding_log(),
        |limit| Quota::per_second(limit).sliding_counter(),
    ];
    for kind in kinds {
        for (inherit, left) in table {
            for quotas in [1, 2] {
                let clock = ManualClock::new();
                let mut building = builder(&clock, kind(10));
                if quotas == 2 {
                    building = building.quota(kind(1000));
                }
                let limiter = building.build().unwrap();
                limiter.try_acquire_n(6).unwrap();
                let new = [kind(20), kind(1000)];
                limiter.set_quotas(&new[..quotas], inherit).unwrap();
                assert_eq!(limiter.peek().remaining, left, "{inherit:?} {:?}", kind(10));
                assert_eq!(limiter.snapshot().quotas, new[..quotas]);
            }
        }
    }
}

#[test]
fn turns_of_a_leaky_bucket_that_were_taken_drain_at_the_new_rate() {
    let hour = Duration::from_secs(3600);
    let slow = Quota::new(1, hour).leaky_bucket(5);
    let fast = Quota::per_second(10).leaky_bucket(5);
    // A token that was half drained, and three that were not.
    for (cost, passed, left, available) in [(1, hour / 2, ms(50), 0), (3, ms(0), ms(300), -2)] {
        for inherit in [Inherit::AsIs, Inherit::Proportional, Inherit::Additive] {
            let clock = ManualClock::new();
            let limiter = limiter(&clock, slow);
            limiter.try_acquire_n(cost).unwrap();
            clock.advance(passed);
            assert_eq!(limiter.snapshot().available, [available]);
            limiter.set_quota(fast, inherit).unwrap();
            assert_eq!(limiter.snapshot().available, [available], "{inherit:?}");
            assert_eq!(limiter.snapshot().reset_after, left, "{inherit:?}");
            limiter.set_quota(slow, inherit).unwrap();
            assert_eq!(limiter.snapshot().reset_after, hour * cost as u32 - passed);
        }
    }
}

#[test]
fn a_change_at_the_origin_of_the_clock_costs_nothing() {
    let quota = Quota::per_second(10).burst(5);
    let clock = ManualClock::new();
    let limiter = limiter(&clock, quota);
    limiter.set_quota(quota, Inherit::AsIs).unwrap();
    assert_eq!(limiter.snapshot().available, [5]);
    assert!(limiter.try_acquire_n(5).is_ok());

    // Nor do several, with whatever happens between them, in whatever limit.
    let quotas: [fn(u64) -> Quota; 6] = [
        |rate| Quota::per_second(rate).burst(5),
        // A unit that is no nanosecond.
        |rate| Quota::new(7 * rate, 9 * SECOND).burst(5),
        |rate| Quota::new(5, SECOND / rate as u32).fixed_window(),
        |rate| Quota::new(5, SECOND / rate as u32).sliding_log(),
        |rate| Quota::new(5, SECOND / rate as u32).sliding_counter(),
        |rate| Quota::per_second(rate).leaky_bucket(5),
    ];
    for (kind, stripes) in quotas.iter().flat_map(|kind| [(kind, 1), (kind, 2)]) {
        let clock = ManualClock::new();
        let Ok(limiter) = builder(&clock, kind(10)).stripes(stripes).build() else {
            continue;
        };
        let full = limiter.snapshot().available;
        for rate in [10, 20, 10, 10, 3, 3] {
            limiter.set_quota(kind(rate), Inherit::AsIs).unwrap();
            assert_eq!(limiter.snapshot().available, full, "{:?}", kind(rate));
            limiter.add(1);
            limiter.reserve(1).unwrap().refund();
            assert_eq!(limiter.snapshot().available, full, "{:?}", kind(rate));
            let reset_after = limiter.snapshot().reset_after;
            assert_eq!(reset_after, Duration::ZERO, "{:?}", kind(rate));
        }
        let before = drain(&limiter);
        let fresh = builder(&clock, kind(3)).stripes(stripes);
        assert_eq!(before, drain(&fresh.build().unwrap()), "{:?}", kind(3));
    }
}

#[test]
fn a_quota_is_replaced_by_one_of_its_kind_only() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(5));
    for quota in [
        Quota::per_second(5).sliding_log(),
        Quota::per_second(5).warm_up(SECOND, 3),
        Quota::per_second(0),
    ] {
        assert!(limiter.set_quota(quota, Inherit::AsIs).is_err());
    }
    assert!(limiter.set_quotas(&[], Inherit::AsIs).is_err());
    let two = [Quota::per_second(5); 2];
    assert!(limiter.set_quotas(&two, Inherit::AsIs).is_err());
    assert_eq!(limiter.snapshot().quotas, [Quota::per_second(5)]);
}

#[test]
fn it_begins_with_what_it_is_told_to() {
    for quota in [
        Quota::per_second(10).initial(3),
        Quota::per_second(10).fixed_window().initial(3),
        Quota::per_second(10).sliding_log().initial(3),
        Quota::per_second(10).sliding_counter().initial(3),
    ] {
        let clock = ManualClock::new();
        clock.advance(10 * SECOND);
        for stripes in [1, 2] {
            if let Ok(limiter) = builder(&clock, quota).stripes(stripes).build() {
                assert_eq!(drain(&limiter), 3, "{quota:?}");
            }
        }
    }
}

#[test]
fn stripes_together_hold_and_earn_what_one_would() {
    let clock = ManualClock::new();
    for stripes in [2, 3, 7, 8] {
        let limiter = builder(&clock, Quota::per_second(700).burst(100)).stripes(stripes);
        let limiter = limiter.build().unwrap();
        assert_eq!(limiter.peek().limit, 100);
        assert_eq!(drain(&limiter), 100);
        let mut admitted = 0;
        for _ in 0..1000 {
            clock.advance(ms(10));
            admitted += drain(&limiter);
        }
        // A token short in each part, at most.
        assert!(
            (7000 - stripes as u64..=7000).contains(&admitted),
            "{stripes}: {admitted}"
        );
        clock.advance(SECOND);
        assert_eq!(limiter.snapshot().remaining, 100);
        let most = 100 / stripes as u64;
        assert!(limiter.try_acquire_n(most).is_ok());
        let rejected = limiter.try_acquire_n(100 / stripes as u64 + 2).unwrap_err();
        assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
        limiter
            .set_quota(Quota::per_second(10).burst(10), Inherit::Reset)
            .unwrap();
        assert_eq!(drain(&limiter), 10);
        run(&clock, limiter.acquire()).unwrap();
        clock.advance(10 * SECOND);
    }
}

#[test]
fn stripes_are_full_when_a_single_bucket_would_be() {
    let clock = ManualClock::new();
    for (rate, burst, stripes) in [(100, 100, 3), (100, 100, 7), (3, 50, 8), (1000, 17, 16)] {
        let quota = Quota::per_second(rate).burst(burst);
        let [single, striped] = [1, stripes].map(|stripes| {
            let limiter = builder(&clock, quota).stripes(stripes).build();
            limiter.unwrap()
        });
        for _ in 0..100 {
            assert_eq!((drain(&single), drain(&striped)), (burst, burst));
            clock.advance(single.peek().reset_after);
        }
    }
}

#[test]
fn a_cost_of_zero_only_looks() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    assert!(limiter.try_acquire_n(0).is_ok());
    limiter.reserve(1).unwrap().commit(1);
    assert!(limiter.try_acquire_n(0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A token bucket whose quota changes, whose clock jumps, and that gives tokens back, against a
    /// bucket of fractional tokens.
    #[test]
    fn a_bucket_with_everything_follows_a_simple_one(
        steps in prop::collection::vec((0_u8..8, 0_u64..3000, 1_u64..12), 1..150),
    ) {
        const RATES: [u64; 4] = [1, 3, 7, 700_000];
        let manual = ManualClock::new();
        manual.advance(Duration::from_secs(1 << 30));
        let clock = Skewed::new(&manual);
        let (mut rate, mut burst) = (3_u64, 8_u64);
        let limiter = RateLimiter::builder()
            .quota(Quota::per_second(rate).burst(burst))
            .max_debt(0)
            .clock(clock.clone())
            .build()
            .unwrap();
        // In billionths of a token, which a nanosecond earns a whole number of.
        let mut level = i128::from(burst) * 1_000_000_000;
        let mut slack = 0;
        for (step, number, cost) in steps {
            let full = i128::from(burst) * 1_000_000_000;
            match step {
                0..=2 => {
                    manual.advance(ms(number));
                    level = full.min(level + i128::from(number) * 1_000_000 * i128::from(rate));
                }
                3 => {
                    // A backward jump beyond the tolerance for racing threads earns nothing.
                    let _ = limiter.peek();
                    clock.jump_back(Duration::from_secs(2 + number));
                    let _ = limiter.peek();
                }
                4 => {
                    limiter.add(cost);
                    level = full.min(level + i128::from(cost) * 1_000_000_000);
                }
                5 => {
                    let (old, inherit) = (full, number % 3);
                    rate = RATES[cost as usize % 4];
                    burst = 1 + number % 12;
                    let full = i128::from(burst) * 1_000_000_000;
                    let (inherit, new) = match inherit {
                        0 => (Inherit::AsIs, level.min(full)),
                        1 if full > old => (Inherit::Additive, level + full - old),
                        1 => (Inherit::Additive, level.min(full)),
                        _ => (Inherit::Reset, full),
                    };
                    limiter.set_quota(Quota::per_second(rate).burst(burst), inherit).unwrap();
                    level = new;
                    // The new unit may round once.
                    slack += i128::from(rate) + 1;
                }
                _ => {
                    let needed = i128::from(cost) * 1_000_000_000;
                    let tolerance = slack + i128::from(rate);
                    match limiter.try_acquire_n(cost) {
                        Ok(()) => {
                            prop_assert!(level + tolerance >= needed);
                            level -= needed;
                        }
                        Err(_) => prop_assert!(level - tolerance < needed),
                    }
                }
            }
        }
    }
}

#[test]
fn limiters_of_keys_are_evicted_once_they_equal_new_ones() {
    let two = Quota::per_second(2);
    for quota in [
        two,
        two.leaky_bucket(1),
        two.fixed_window(),
        two.fixed_window_from_first(),
        two.sliding_log(),
        two.sliding_counter(),
        two.warm_up(SECOND, 3),
    ] {
        let clock = ManualClock::new();
        let template = RateLimiter::builder().quota(quota).clock(clock.clone());
        template.clone().build().unwrap();
        let tenants = Keyed::new(move |_: &u32| template.clone().build().unwrap());
        let left = || {
            tenants.evict_idle();
            tenants.len()
        };
        let held = tenants.get(&1);
        assert_eq!(left(), 1, "{quota:?}: somebody has a handle");
        held.try_acquire().unwrap();
        drop(held);
        assert_eq!(left(), 1, "{quota:?}: a token is missing");
        clock.advance(10 * SECOND);
        assert_eq!(left(), 0, "{quota:?}");

        tenants.get(&2).set_quota(quota, Inherit::AsIs).unwrap();
        assert_eq!(left(), 1, "{quota:?}: its quota is its own");
    }
}
