//! Faults that other rate limiters have.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use backstop::rate_limiter::{Inherit, KeyedRateLimiter, Overflow, Quota};
use backstop::{Clock, ManualClock, Policy, RateLimiter, Reason};
use futures::future::{join, join_all};

use super::{SECOND, Skewed, builder, drain, limiter, ms, run};

const HOUR: Duration = Duration::from_secs(3600);

/// Threads that take what they can; returns how much they got.
fn hammer(limiter: &RateLimiter, threads: usize, calls: u64) -> u64 {
    let (taken, start) = (AtomicU64::new(0), Barrier::new(threads));
    thread::scope(|scope| {
        for number in 0..threads as u64 {
            let (taken, start) = (&taken, &start);
            scope.spawn(move || {
                start.wait();
                for call in 0..calls {
                    let cost = 1 + (call + number) % 3;
                    if limiter.try_acquire_n(cost).is_ok() {
                        taken.fetch_add(cost, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    taken.into_inner()
}

#[test]
fn contention_never_blocks_the_limiter() {
    let clock = ManualClock::new();
    for stripes in [1, 4] {
        let quota = Quota::new(10, ms(1)).burst(20);
        let limiter = builder(&clock, quota).stripes(stripes).build().unwrap();
        hammer(&limiter, 8, 2_000);
        clock.advance(ms(60));
        assert!(limiter.try_acquire().is_ok());
    }
}

#[test]
fn no_more_tokens_are_given_out_than_there_are() {
    let clock = ManualClock::new();
    let one = Quota::new(1, Duration::MAX);
    for stripes in [1, 4] {
        for round in 0..20 {
            let limiter = builder(&clock, one.burst(1000)).stripes(stripes);
            let limiter = limiter.build().unwrap();
            let taken = hammer(&limiter, 4, 200 + round);
            assert!(taken <= 1000);
            assert_eq!(taken + drain(&limiter), 1000);
        }
    }
    // A window behind a lock, with reservations that come back meanwhile.
    let window = limiter(&clock, Quota::new(1000, HOUR).fixed_window());
    let kept = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..200 {
                    let Ok(reservation) = window.reserve_within(2, Duration::ZERO) else {
                        continue;
                    };
                    kept.fetch_add(round % 3, Ordering::Relaxed);
                    reservation.commit(round % 3);
                }
            });
        }
    });
    assert_eq!(kept.into_inner() + drain(&window), 1000);
}

#[test]
fn slow_rates_lose_nothing_to_polling() {
    let clock = ManualClock::new();
    let hourly = limiter(&clock, Quota::per_hour(1));
    let mut admitted = 0;
    for _ in 0..(10 * 3600 * 1000) / 71 * 10 {
        clock.advance(Duration::from_micros(7_100));
        admitted += u32::from(hourly.try_acquire().is_ok());
    }
    assert!((9..=11).contains(&admitted), "{admitted}");

    let thrice = limiter(&clock, Quota::per_second(3).burst(1));
    let polled = (0..100_000).filter(|_| {
        clock.advance(ms(1));
        thrice.try_acquire().is_ok()
    });
    let admitted = polled.count();
    // Polled at 1 kHz a token waits up to a millisecond for its taker, but is not lost.
    assert!((299..=301).contains(&admitted), "{admitted}");
}

#[test]
fn callers_that_gave_up_leave_no_hole() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(1));
    drain(&limiter);
    for _ in 0..999 {
        let mut waiting = pin!(limiter.acquire());
        let poll = waiting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
    }
    assert_eq!(limiter.snapshot().waiting, 0);
    let start = clock.now();
    run(&clock, limiter.acquire()).unwrap();
    assert!(clock.now().saturating_duration_since(start) <= ms(100));
    assert_eq!((limiter.snapshot().waiting, clock.sleepers()), (0, 0));
}

#[test]
fn a_turn_past_the_deadline_is_rejected_at_once() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let call =
        backstop::deadline::scope_on(clock.clone(), ms(500), async { limiter.acquire().await });
    let rejected = run(&clock, call).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineTooClose);
    assert_eq!(rejected.retry_after(), Some(SECOND));
    assert_eq!(clock.now().as_nanos(), 0);

    // Behind a waiter, all of the queue counts.
    let both = join(limiter.acquire(), limiter.acquire_within(1, ms(1999)));
    let (first, second) = run(&clock, both);
    assert!(first.is_ok());
    let rejected = second.unwrap_err();
    assert_eq!(rejected.reason(), Reason::RateLimited);
    assert_eq!(rejected.retry_after(), Some(2 * SECOND));
    assert_eq!(clock.now().as_nanos(), 1_000_000_000);
}

#[test]
fn waiters_are_served_in_the_order_of_arrival() {
    let clock = ManualClock::new();
    let quotas = [
        Quota::per_second(10).burst(1),
        Quota::per_second(10).leaky_bucket(20),
        Quota::new(1, ms(100)).fixed_window(),
        Quota::new(1, ms(100)).sliding_log(),
        Quota::new(1, ms(100)).sliding_counter(),
    ];
    for quota in quotas {
        let limiter = limiter(&clock, quota);
        limiter.try_acquire().unwrap();
        let served = RefCell::new(Vec::new());
        run(
            &clock,
            join_all((0..20).map(|number| {
                let (clock, limiter, served) = (&clock, &limiter, &served);
                async move {
                    // They come in another order than they are polled in.
                    clock.sleep(ms(20 - number)).await;
                    limiter.acquire().await.unwrap();
                    served.borrow_mut().push(number);
                }
            })),
        );
        assert_eq!(
            *served.borrow(),
            (0..20).rev().collect::<Vec<_>>(),
            "{quota:?}"
        );
    }
}

#[test]
fn the_next_moves_up_when_the_first_gives_up() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let mut first = Box::pin(limiter.acquire());
    let poll = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll.is_pending());
    let second = async {
        limiter.acquire().await.unwrap();
        clock.now()
    };
    let leaving = async {
        clock.sleep(ms(300)).await;
        drop(first);
    };
    let (served, ()) = run(&clock, join(second, leaving));
    assert_eq!(served.as_nanos(), 1_000_000_000);
    // No token was lost either: the next one comes a second later.
    assert_eq!(limiter.peek().retry_after, Some(SECOND));
}

#[test]
fn extreme_numbers_saturate() {
    let year = Duration::from_secs(365 * 86_400);
    let clock = ManualClock::new();
    let good = [
        Quota::new(1, 10 * year).burst(1000),
        Quota::new(1, Duration::MAX),
        Quota::new(1, Duration::MAX).burst(1 << 40),
        Quota::new(1_000_000_000, SECOND),
        Quota::new(1 << 40, Duration::MAX).fixed_window(),
        Quota::new(1 << 20, Duration::MAX).sliding_log(),
        Quota::new(1 << 40, Duration::from_nanos(1)).sliding_counter(),
        Quota::new(1, Duration::MAX).leaky_bucket(1 << 40),
        Quota::per_second(1).warm_up(Duration::MAX, u32::MAX),
    ];
    for quota in good {
        let limiter = limiter(&clock, quota);
        for wait in [Duration::ZERO, SECOND, Duration::MAX] {
            let _ = limiter.try_acquire_n(0);
            let _ = limiter.try_acquire_n(u64::MAX);
            let _ = limiter.try_acquire();
            let _ = (limiter.peek(), limiter.snapshot());
            let _ = limiter.reserve(u64::MAX);
            if let Ok(reservation) = limiter.reserve(1) {
                reservation.commit(u64::MAX);
            }
            limiter.add(u64::MAX);
            clock.advance(wait.min(year));
        }
    }
    let bad = [
        Quota::per_second(0),
        Quota::new(1, Duration::ZERO),
        Quota::per_second(1_000_000_001),
        Quota::per_second(u64::MAX),
        Quota::per_second(1).burst(0),
        Quota::per_second(1).burst(u64::MAX),
        Quota::per_second(1).initial(2),
        Quota::per_second(1).leaky_bucket(0),
        Quota::new(u64::MAX, SECOND).fixed_window(),
        Quota::new(u64::MAX, SECOND).sliding_log(),
        Quota::new(5, SECOND).burst(6).sliding_log(),
        Quota::new(5, SECOND).burst(6).sliding_counter(),
        Quota::new(5, SECOND).fixed_window().warm_up(SECOND, 3),
        Quota::new(5, SECOND).warm_up(Duration::ZERO, 3),
        Quota::new(5, SECOND).warm_up(SECOND, 1),
        Quota::new(5, SECOND).warm_up(SECOND, 3).initial(1),
    ];
    for quota in bad {
        let error = builder(&clock, quota).build().unwrap_err();
        assert_eq!(error.setting(), "quota", "{quota:?}");
        let error = limiter(&clock, Quota::per_second(1)).set_quota(quota, Inherit::AsIs);
        assert!(error.is_err(), "{quota:?}");
        let keyed = KeyedRateLimiter::<u64>::builder().quota(quota).build();
        assert!(keyed.is_err(), "{quota:?}");
    }
    let one = || builder(&clock, Quota::per_second(4));
    assert_eq!(
        one().max_debt(u64::MAX).build().unwrap_err().setting(),
        "max_debt"
    );
    for stripes in [0, 5, usize::MAX] {
        assert_eq!(
            one().stripes(stripes).build().unwrap_err().setting(),
            "stripes"
        );
    }
    assert!(one().quota(Quota::per_hour(9)).stripes(2).build().is_err());
    assert!(RateLimiter::builder().clock(clock.clone()).build().is_err());
    let keyed = || KeyedRateLimiter::<u64>::builder().clock(clock.clone());
    assert_eq!(keyed().build().unwrap_err().setting(), "quota");
    let none = keyed().quota(Quota::per_second(1)).max_keys(0).build();
    assert_eq!(none.unwrap_err().setting(), "max_keys");
    assert!(
        keyed()
            .quota(Quota::per_second(1))
            .max_keys(usize::MAX)
            .build()
            .is_ok()
    );
    assert!(
        keyed()
            .quota(Quota::per_second(5).initial(1))
            .build()
            .is_err()
    );
}

#[test]
fn odd_rates_are_exact_over_the_long_run() {
    for rate in [700_000, 600_000_000, 999_999_937, 3] {
        let clock = ManualClock::new();
        let limiter = limiter(&clock, Quota::per_second(rate).burst(rate));
        drain_all(&limiter);
        let mut admitted = 0;
        // Steps that no rate divides evenly.
        let step = Duration::from_nanos(99_999_989);
        for _ in 0..20_000 {
            clock.advance(step);
            let there = limiter.peek().remaining;
            limiter.try_acquire_n(there).unwrap();
            admitted += there;
        }
        let due = rate as f64 * clock.now().as_nanos() as f64 / 1e9;
        let off = (admitted as f64 - due).abs();
        assert!(
            off / due < 1e-6 || off <= 1.0,
            "{rate}: {admitted} of {due}"
        );
    }
}

fn drain_all(limiter: &RateLimiter) {
    limiter.try_acquire_n(limiter.peek().remaining).unwrap();
}

#[test]
fn a_new_rate_does_not_reprice_the_past() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1).burst(1000));
    drain_all(&limiter);
    clock.advance(10 * SECOND);
    limiter
        .set_quota(Quota::per_second(100).burst(1000), Inherit::AsIs)
        .unwrap();
    // Ten seconds at the old rate, not at the new one.
    assert_eq!(limiter.peek().remaining, 10);
    clock.advance(SECOND);
    assert_eq!(limiter.peek().remaining, 110);
}

#[test]
fn retry_after_is_exact() {
    let quotas = [
        Quota::per_second(3),
        Quota::per_second(700_000).burst(3),
        Quota::per_hour(1),
        Quota::new(5, ms(70)).fixed_window(),
        Quota::new(5, ms(70)).fixed_window_from_first(),
        Quota::new(5, ms(70)).sliding_log(),
        Quota::new(5, ms(70)).sliding_counter(),
        Quota::per_second(7).leaky_bucket(3),
        Quota::per_second(7).warm_up(SECOND, 3),
    ];
    for quota in quotas {
        for stripes in [1, 2] {
            let clock = ManualClock::new();
            clock.advance(Duration::from_nanos(123_456_789));
            let Ok(limiter) = builder(&clock, quota).stripes(stripes).build() else {
                continue;
            };
            for _ in 0..50 {
                let Err(rejected) = limiter.try_acquire() else {
                    continue;
                };
                let wait = rejected.retry_after().unwrap();
                clock.advance(wait - Duration::from_nanos(1));
                assert!(limiter.try_acquire().is_err(), "{quota:?}");
                clock.advance(Duration::from_nanos(1));
                assert!(limiter.try_acquire().is_ok(), "{quota:?}");
            }
        }
    }
}

#[test]
fn several_limits_take_all_or_nothing() {
    let clock = ManualClock::new();
    let both = builder(&clock, Quota::per_second(1000))
        .quota(Quota::per_hour(500).fixed_window())
        .build()
        .unwrap();
    let taken = hammer(&both, 8, 1_000);
    assert_eq!(taken + drain(&both), 500);
    // The rejections took nothing from the other limit.
    assert_eq!(both.snapshot().available, [500, 0]);
    let rejected = both.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(HOUR));
}

#[test]
fn a_backward_jump_of_the_clock_causes_no_burst_and_no_freeze() {
    let quotas = [
        Quota::per_second(10).burst(5),
        Quota::per_second(10).leaky_bucket(5),
        Quota::new(5, ms(500)).fixed_window(),
        Quota::new(5, ms(500)).sliding_log(),
        Quota::new(5, ms(500)).sliding_counter(),
    ];
    for quota in quotas {
        let manual = ManualClock::new();
        manual.advance(24 * HOUR);
        let clock = Skewed::new(&manual);
        let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
        let limiter = limiter.build().unwrap();
        drain(&limiter);
        clock.jump_back(HOUR);
        assert_eq!(drain(&limiter), 0, "{quota:?}");
        let wait = limiter.peek().retry_after.unwrap();
        assert!(wait <= SECOND, "{quota:?}: {wait:?}");
        manual.advance(wait);
        assert!((1..=5).contains(&drain(&limiter)), "{quota:?}");
    }
}

#[test]
fn a_flood_of_keys_stays_in_bounds_and_gives_no_key_a_fresh_burst() {
    let (keys, bound) = match cfg!(debug_assertions) {
        true => (300_000, 3_000),
        false => (10_000_000, 100_000),
    };
    for overflow in [Overflow::Reject, Overflow::Shared] {
        let clock = ManualClock::new();
        let limiter = KeyedRateLimiter::<u64>::builder()
            .quota(Quota::per_hour(10).burst(10))
            .max_keys(bound)
            .overflow(overflow)
            .clock(clock.clone())
            .build()
            .unwrap();
        let active = u64::MAX;
        assert_eq!(limiter.decide(&active, 10).remaining, 0);
        for key in 0..keys {
            let _ = limiter.try_acquire(&key);
            assert!(limiter.len() <= bound);
        }
        assert_eq!(limiter.len(), bound);
        assert!(limiter.try_acquire(&active).is_err());
        assert_eq!(limiter.peek(&active).unwrap().remaining, 0);
        let snapshot = limiter.snapshot();
        assert_eq!(snapshot.overflowed, keys + 1 - bound as u64);
    }
}

#[test]
fn unused_tokens_of_a_reservation_are_returned() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(5));
    drop(limiter.reserve(5).unwrap());
    assert_eq!(limiter.peek().remaining, 5);
    limiter.reserve(5).unwrap().refund();
    assert_eq!(limiter.peek().remaining, 5);
    // A call through the policy that is dropped before it is polled has taken nothing.
    drop(limiter.call(|| async { Ok::<_, ()>(()) }));
    let mut acquire = Box::pin(limiter.acquire_n(5));
    assert_eq!(
        acquire
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Ok(()))
    );
    assert_eq!(limiter.peek().remaining, 0);
}
