//! Charges and refunds: consumption is charged, and refunds are not lost.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use backstop::rate_limiter::{Inherit, Quota};
use backstop::{ManualClock, RateLimiter, Reason};

use super::{SECOND, builder, drain, limiter, ms};

#[test]
fn a_commit_above_the_reservation_is_charged_whatever_the_algorithm() {
    // Quota, stripes, debt, reserved, consumed, and what is left.
    let table = [
        (Quota::per_second(100), 1, None, 10, 80, 20),
        (Quota::per_second(100), 4, None, 10, 80, 20),
        (Quota::per_second(100), 7, Some(50), 10, 130, -30),
        (Quota::per_second(100), 4, Some(50), 10, 1000, -50),
        (
            Quota::per_second(10).leaky_bucket(10),
            1,
            Some(100),
            5,
            50,
            -49,
        ),
        (
            Quota::per_second(10).leaky_bucket(10),
            1,
            Some(20),
            5,
            50,
            -20,
        ),
        (Quota::per_second(100).fixed_window(), 1, None, 10, 80, 20),
        (Quota::per_second(100).fixed_window(), 1, None, 10, 150, -50),
        (Quota::per_second(100).sliding_log(), 1, None, 10, 150, -50),
        (
            Quota::per_second(100).sliding_counter(),
            1,
            None,
            10,
            150,
            -50,
        ),
    ];
    for (quota, stripes, debt, reserved, consumed, left) in table {
        let clock = ManualClock::new();
        let mut building = builder(&clock, quota).stripes(stripes);
        if let Some(debt) = debt {
            building = building.max_debt(debt);
        }
        let limiter = building.build().unwrap();
        limiter.reserve(reserved).unwrap().commit(consumed);
        let available = limiter.snapshot().available[0];
        assert_eq!(available, left, "{quota} in {stripes} parts");
    }
    // While it is warm, tokens of a limiter that warms up take 100 ms each.
    let clock = ManualClock::new();
    let quota = Quota::per_second(10)
        .warm_up(Duration::from_nanos(1), 2)
        .burst(10);
    let limiter = builder(&clock, quota).max_debt(100).build().unwrap();
    limiter.reserve(5).unwrap().commit(50);
    let wait = limiter.peek().retry_after.unwrap();
    assert!(wait.abs_diff(5 * SECOND) < ms(1), "{wait:?}");
}

#[test]
fn every_one_of_several_limits_is_charged() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(10))
        .quota(Quota::per_hour(1000).fixed_window())
        .max_debt(20)
        .build()
        .unwrap();
    limiter.reserve(5).unwrap().commit(100);
    assert_eq!(limiter.snapshot().available, [-20, 900]);
}

#[test]
fn a_debt_of_a_striped_limiter_is_paid_by_its_whole_rate() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(100)).stripes(4);
    let limiter = limiter.max_debt(100).build().unwrap();
    let reservation = limiter.reserve(150).unwrap();
    assert!(reservation.wait() <= ms(520), "{:?}", reservation.wait());
    let rejected = limiter.reserve(60).unwrap_err().retry_after().unwrap();
    assert!((ms(90)..=ms(160)).contains(&rejected), "{rejected:?}");
    clock.advance(rejected);
    limiter.reserve(60).unwrap().commit(60);
    let never = limiter.reserve(201).unwrap_err();
    assert_eq!(never.reason(), Reason::CostExceedsLimit);
    reservation.commit(150);
}

#[test]
fn tokens_given_back_to_a_striped_limiter_fill_whichever_part_misses_some() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::new(100, Duration::MAX)).stripes(4);
    let limiter = limiter.build().unwrap();
    let other = limiter.clone();
    // Ten tokens out of the part of another thread come back in this one.
    let reservation = thread::spawn(move || other.reserve(10).unwrap())
        .join()
        .unwrap();
    limiter.reserve(5).unwrap().commit(5);
    drop(reservation);
    assert_eq!(limiter.snapshot().available, [95]);
    limiter.add(1000);
    assert_eq!(limiter.snapshot().available, [100]);
}

#[test]
fn tokens_given_back_to_a_striped_limiter_pay_its_debts_first() {
    for refunded in [true, false] {
        let clock = ManualClock::new();
        let limiter = builder(&clock, Quota::per_second(400)).stripes(4);
        let limiter = limiter.build().unwrap();
        assert_eq!(drain(&limiter), 400);
        // Every part goes into debt for it. If the tokens came back to one of them, it would admit calls before the
        // others have paid.
        if refunded {
            limiter.reserve(100).unwrap().refund();
        } else {
            limiter.reserve_within(100, Duration::ZERO).unwrap_err();
        }
        assert_eq!(drain(&limiter), 0, "refunded: {refunded}");
        assert_eq!(limiter.snapshot().available, [0]);
    }
}

#[test]
fn a_refund_comes_back_later_than_it_was_taken_beside_newer_tokens() {
    for kind in [
        Quota::sliding_log,
        Quota::fixed_window,
        Quota::sliding_counter,
    ] {
        let clock = ManualClock::new();
        let limiter = limiter(&clock, kind(Quota::per_second(10)));
        let reservation = limiter.reserve(5).unwrap();
        clock.advance(ms(100));
        limiter.try_acquire_n(2).unwrap();
        clock.advance(ms(100));
        reservation.refund();
        assert_eq!(limiter.snapshot().available, [8]);
        clock.advance(ms(800));
        limiter.try_acquire_n(8).unwrap();
    }
}

#[test]
fn tokens_added_to_a_sliding_log_erase_as_many_of_its_newest() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).sliding_log());
    for _ in 0..3 {
        limiter.try_acquire_n(2).unwrap();
        clock.advance(ms(100));
    }
    limiter.add(3);
    assert_eq!(limiter.snapshot().available, [7]);
    clock.advance(ms(700));
    assert_eq!(limiter.snapshot().available, [9], "the oldest two expire");
}

#[test]
fn a_waiter_that_leaves_long_after_its_turn_gives_its_tokens_back() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1).sliding_log());
    limiter.try_acquire().unwrap();
    let mut waiting = Box::pin(limiter.acquire());
    let mut task = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut task).is_pending());
    clock.advance(SECOND);
    // Serves the waiter, which is not polled.
    assert!(limiter.try_acquire().is_err());
    clock.advance(ms(100));
    drop(waiting);
    assert_eq!(limiter.snapshot().available, [1]);
}

#[test]
fn refunds_are_found_whatever_the_order_in_which_threads_come() {
    let clock = ManualClock::new();
    let quotas: [fn(Quota) -> Quota; 3] = [
        Quota::sliding_log,
        Quota::fixed_window,
        Quota::sliding_counter,
    ];
    for kind in quotas {
        let limiter = limiter(&clock, kind(Quota::new(100_000, Duration::MAX)));
        let kept = AtomicI64::new(0);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (limiter, clock, kept) = (&limiter, &clock, &kept);
                scope.spawn(move || {
                    for round in 0..500 {
                        // Readings of the time are used in another order than they were made in.
                        clock.advance(Duration::from_nanos(thread + 1));
                        let reservation = limiter.reserve(2).unwrap();
                        let actual = round % 3;
                        kept.fetch_add(actual as i64, Ordering::Relaxed);
                        reservation.commit(actual);
                    }
                });
            }
        });
        let left = limiter.snapshot().available[0];
        assert_eq!(left, 100_000 - kept.into_inner());
    }
}

#[test]
fn a_cost_above_the_burst_is_rejected_however_large_the_capacity() {
    let clock = ManualClock::new();
    let day = Quota::per_day(1).burst(1 << 20);
    for stripes in [1, 2] {
        let limiter = builder(&clock, day).max_debt(0).stripes(stripes);
        let limiter = limiter.build().unwrap();
        for cost in [(1 << 20) + 1, 1 << 40, u64::MAX] {
            let rejected = limiter.try_acquire_n(cost).unwrap_err();
            assert_eq!(rejected.reason(), Reason::CostExceedsLimit, "{cost}");
            assert!(limiter.reserve(cost).is_err(), "{cost}");
        }
        assert_eq!(limiter.peek().remaining, 1 << 20);
    }
    let keyed = backstop::KeyedRateLimiter::<u64>::builder()
        .quota(day)
        .clock(clock.clone())
        .build()
        .unwrap();
    assert!(keyed.try_acquire_n(&1, u64::MAX).is_err());
}

#[test]
fn a_limiter_that_is_polled_and_rejects_warms_up() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).warm_up(ms(500), 3));
    let mut admitted = 0;
    for call in 0..200 {
        clock.advance(ms(120));
        admitted += u32::from(limiter.try_acquire().is_ok() && call >= 100);
    }
    assert_eq!(admitted, 100);
    // Left alone it cools down.
    clock.advance(10 * SECOND);
    limiter.try_acquire().unwrap();
    assert!(limiter.peek().retry_after.unwrap() > ms(250));
}

#[test]
fn a_limiter_that_warms_up_admits_calls_that_cost_nothing_unless_it_is_in_debt() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).warm_up(ms(500), 3));
    // The first token of a cold limiter lasts longer than an interval.
    limiter.try_acquire().unwrap();
    assert!(limiter.peek().retry_after.unwrap() > ms(200));
    limiter.try_acquire_n(0).unwrap();
    limiter.reserve(1).unwrap().commit(1);
    assert!(limiter.try_acquire_n(0).is_err());
}

#[test]
fn the_time_until_a_limit_is_full_is_exact() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).burst(3),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).fixed_window_from_first(),
        Quota::per_second(10).sliding_log(),
        Quota::per_second(10).sliding_counter(),
    ];
    for quota in quotas {
        for (before, taken, after) in [(0, 1, 0), (250, 3, 0), (250, 3, 900), (999, 2, 700)] {
            let clock = ManualClock::new();
            clock.advance(ms(before));
            let limiter = limiter(&clock, quota);
            limiter.try_acquire_n(taken).unwrap();
            clock.advance(ms(after));
            let is_full = || limiter.peek().remaining == quota.limit();
            let rest = limiter.peek().reset_after;
            assert_eq!(rest.is_zero(), is_full(), "{quota}");
            if !rest.is_zero() {
                clock.advance(rest - Duration::from_nanos(1));
                assert!(!is_full(), "{quota}: full before {rest:?}");
                clock.advance(Duration::from_nanos(1));
                assert!(is_full(), "{quota}: not full after {rest:?}");
            }
        }
    }
}

#[test]
fn an_additive_change_adds_what_the_limit_grows_by_and_takes_nothing_away() {
    // Left of 100, the new limit, and what is left of that: as in Bucket4j.
    let table = [(40, 20, 20), (10, 20, 10), (40, 150, 90), (0, 20, 0)];
    for kind in [
        |quota: Quota| quota,
        Quota::fixed_window,
        Quota::sliding_log,
    ] {
        for (left, limit, expected) in table {
            let clock = ManualClock::new();
            let limiter = limiter(&clock, kind(Quota::per_second(100)));
            limiter.try_acquire_n(100 - left).unwrap();
            let new = kind(Quota::per_second(limit));
            limiter.set_quota(new, Inherit::Additive).unwrap();
            assert_eq!(limiter.snapshot().available, [expected], "{left} {new}");
        }
    }
}

#[test]
fn a_reset_begins_with_the_initial_tokens_of_the_new_quota() {
    for kind in [
        |quota: Quota| quota,
        Quota::fixed_window,
        Quota::sliding_log,
        Quota::sliding_counter,
    ] {
        for stripes in [1, 2] {
            let clock = ManualClock::new();
            let Ok(limiter) = builder(&clock, kind(Quota::per_second(10)))
                .stripes(stripes)
                .build()
            else {
                continue;
            };
            let new = kind(Quota::per_second(20)).initial(7);
            limiter.set_quota(new, Inherit::Reset).unwrap();
            assert_eq!(limiter.snapshot().available, [7], "{new}");
        }
    }
}

#[test]
fn a_quota_can_change_any_number_of_times() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(10));
    limiter.try_acquire_n(4).unwrap();
    for change in 0..1000 {
        let quota = Quota::per_second(10 + change % 3).burst(10);
        limiter.set_quota(quota, Inherit::AsIs).unwrap();
        assert_eq!(limiter.snapshot().available, [6]);
    }
    assert_eq!(drain(&limiter), 6);
}

#[test]
fn rejections_are_counted() {
    let clock = ManualClock::new();
    for shadow in [false, true] {
        let limiter: RateLimiter = builder(&clock, Quota::per_second(1))
            .shadow(shadow)
            .build()
            .unwrap();
        for _ in 0..4 {
            let _ = limiter.try_acquire();
        }
        let _ = limiter.decide(1);
        let _ = limiter.reserve(5);
        let snapshot = limiter.snapshot();
        let expected = if shadow { (0, 5) } else { (5, 0) };
        assert_eq!((snapshot.rejected, snapshot.would_reject), expected);
    }
}

#[test]
fn times_stated_behind_waiters_include_a_commit_above_the_reservation() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).fixed_window_from_first(),
        Quota::per_second(10).sliding_log(),
        Quota::per_second(10).sliding_counter(),
    ];
    for quota in quotas {
        let clock = ManualClock::new();
        clock.advance(ms(100));
        let limiter = builder(&clock, quota).max_debt(50).build().unwrap();
        let reservation = limiter.reserve(1).unwrap();
        drain(&limiter);
        let mut waiter = Box::pin(limiter.acquire());
        let mut task = Context::from_waker(Waker::noop());
        assert!(waiter.as_mut().poll(&mut task).is_pending());
        // Makes the plan that the commit outdates.
        assert!(!limiter.peek().allowed);

        reservation.commit(21);
        let told = limiter.peek().retry_after.unwrap();
        let hasty = run_once(limiter.acquire_within(1, told - ms(1)));
        assert!(matches!(hasty, Some(Err(_))), "{quota}: {told:?}");
        clock.advance(told);
        assert!(waiter.as_mut().poll(&mut task).is_ready(), "{quota}");
        assert!(limiter.try_acquire().is_ok(), "{quota}");
    }
}

fn run_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
