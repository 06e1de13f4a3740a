//! Waiters are never overtaken, and lose nothing to timers that are late.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::rate_limiter::{Acquire, Quota};
use backstop::{Clock, Instant, ManualClock, RateLimiter, Reason, Sleep};
use futures::future::{join, join_all};

use super::{SECOND, builder, drain, limiter, ms, run};

/// Polls with a waker that does nothing.
fn poll(waiter: &mut Pin<Box<Acquire<'_>>>) -> bool {
    match waiter
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
        Poll::Pending => false,
    }
}

#[test]
fn a_loop_of_try_acquire_does_not_starve_a_waiter_that_is_polled_late() {
    let clock = ManualClock::new();
    for (stripes, cost, surplus) in [(1, 5, 2), (2, 3, 4)] {
        let limiter = builder(&clock, Quota::per_second(10).burst(10)).stripes(stripes);
        let limiter = limiter.build().unwrap();
        drain(&limiter);
        let mut waiter = Box::pin(limiter.acquire_n(cost));
        assert!(!poll(&mut waiter));
        // A little more than it needs.
        clock.advance(ms(750));
        assert!(drain(&limiter) <= surplus, "{stripes} stripes");
        assert!(poll(&mut waiter), "{stripes} stripes");
    }
}

#[test]
fn reservations_do_not_starve_a_waiter() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(10));
    drain(&limiter);
    let mut waiter = Box::pin(limiter.acquire_n(5));
    for _ in 0..5 {
        assert!(!poll(&mut waiter));
        clock.advance(ms(100));
        if let Ok(reservation) = limiter.reserve(1) {
            reservation.commit(1);
        }
    }
    assert!(poll(&mut waiter));
}

#[test]
fn behind_a_waiter_rejections_and_peeks_name_the_time_after_which_they_would_succeed() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(10).burst(10)).max_debt(0);
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let mut waiter = Box::pin(limiter.acquire_n(5));
    assert!(!poll(&mut waiter));
    clock.advance(ms(300));
    // Three tokens are there, and two more are needed; then these two.
    let wait = Some(ms(400));
    assert_eq!(limiter.try_acquire_n(2).unwrap_err().retry_after(), wait);
    assert_eq!(limiter.reserve(2).unwrap_err().retry_after(), wait);
    assert_eq!(limiter.peek_n(2).retry_after, wait);
    assert_eq!(limiter.decide(2), limiter.peek_n(2));
    assert_eq!(limiter.peek().remaining, 0);
    clock.advance(ms(399));
    assert!(limiter.try_acquire_n(2).is_err());
    clock.advance(ms(1));
    limiter.try_acquire_n(2).unwrap();
    assert!(poll(&mut waiter));
}

#[test]
fn tokens_of_a_waiter_that_is_dropped_after_its_turn_come_back() {
    let clock = ManualClock::new();
    for quota in [
        Quota::per_second(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).sliding_log(),
        Quota::per_second(10).sliding_counter(),
    ] {
        let limiter = limiter(&clock, quota);
        drain(&limiter);
        let mut waiter = Box::pin(limiter.acquire());
        assert!(!poll(&mut waiter));
        clock.advance(limiter.peek().retry_after.unwrap());
        assert!(limiter.peek().allowed);
        let before = limiter.snapshot();
        assert_eq!(before.waiting, 0, "{quota:?}: served by the look");
        drop(waiter);
        let after = limiter.snapshot();
        assert_eq!(after.available[0], before.available[0] + 1, "{quota:?}");
    }
}

#[test]
fn a_queue_whose_first_waiter_is_served_by_another_call_continues() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let mut first = Box::pin(limiter.acquire());
    assert!(!poll(&mut first));
    // The second one's timer is set only when it has become the first.
    let second = async {
        limiter.acquire().await.unwrap();
        clock.now().as_nanos()
    };
    let look = async {
        clock.sleep(ms(1500)).await;
        assert!(!limiter.peek().allowed);
    };
    let (at, ()) = run(&clock, join(second, look));
    assert_eq!(at, 2_000_000_000);
    assert!(poll(&mut first));
}

/// A clock whose sleeps end at the next whole tick after their time, as those of tokio do.
#[derive(Clone, Debug)]
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        const TICK: u64 = 1_000_000;
        let due = deadline.as_nanos().div_ceil(TICK).saturating_mul(TICK);
        self.0.sleep_until(Instant::from_nanos(due))
    }
}

#[test]
fn late_timers_cost_a_full_queue_none_of_its_rate() {
    let second = |rate| Quota::per_second(rate);
    for rate in [200, 500, 3_000, 5_000, 20_000] {
        let waiters = (rate / 2).min(5_000);
        for quota in [
            second(rate).leaky_bucket(5_000),
            second(rate).burst(1),
            second(rate).warm_up(Duration::from_nanos(1), 2),
        ] {
            let clock = ManualClock::new();
            clock.advance(Duration::from_nanos(123_457));
            let limiter = RateLimiter::builder()
                .quota(quota)
                .clock(Ticking(clock.clone()))
                .build()
                .unwrap();
            limiter.try_acquire().unwrap();
            let start = clock.now();
            let served = RefCell::new(Vec::new());
            run(
                &clock,
                join_all((0..waiters).map(|_| async {
                    limiter.acquire().await.unwrap();
                    let at = clock.now().saturating_duration_since(start);
                    served.borrow_mut().push(at.as_nanos() as u64);
                })),
            );
            let served = served.into_inner();
            let ideal = waiters * 1_000_000_000 / rate;
            let last = *served.last().unwrap();
            assert!(last <= ideal + 1_000_000, "{quota}: {last} for {ideal}");
            // Each turn is late by a tick at most, and never early.
            for (turn, at) in (1..).zip(&served) {
                let turn = turn * 1_000_000_000 / rate;
                assert!(
                    (turn..=turn + 1_000_100).contains(at),
                    "{quota}: {at} {turn}"
                );
            }
        }
    }
}

#[test]
fn a_task_that_acquires_again_and_again_keeps_the_rate_too() {
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(700).burst(1))
        .clock(Ticking(clock.clone()))
        .build()
        .unwrap();
    run(&clock, async {
        for _ in 0..701 {
            limiter.acquire().await.unwrap();
        }
    });
    assert!(clock.now().as_nanos() <= 1_001_000_000, "{:?}", clock.now());
}

#[test]
fn the_estimate_reflects_a_cancellation_in_a_long_queue_at_once() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1).burst(1));
    drain(&limiter);
    let mut line: Vec<_> = (0..2_000).map(|_| Box::pin(limiter.acquire())).collect();
    for waiter in &mut line {
        assert!(!poll(waiter));
    }
    let wait = || limiter.peek().retry_after;
    assert_eq!(wait(), Some(2_001 * SECOND));
    for left in (1..2_000).rev() {
        drop(line.remove(left / 2));
        assert_eq!(wait(), Some((left as u32 + 1) * SECOND));
    }
}

#[test]
fn an_estimate_behind_windows_is_never_too_early_after_cancellations() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1).sliding_log());
    drain(&limiter);
    let mut line: Vec<_> = (0..300).map(|_| Box::pin(limiter.acquire())).collect();
    for waiter in &mut line {
        assert!(!poll(waiter));
    }
    let wait = || limiter.peek().retry_after.unwrap();
    assert_eq!(wait(), 301 * SECOND);
    for left in (1..300_u32).rev() {
        drop(line.remove(left as usize / 2));
        let due = (left + 1) * SECOND;
        // So many waiters that some cancellations may not be counted yet.
        let most = due + (left / 64 + 1) * SECOND;
        assert!((due..=most).contains(&wait()), "{left}: {:?}", wait());
    }
}

#[test]
fn a_pause_holds_everything_and_the_later_end_counts() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).burst(2));
    limiter.pause_for(2 * SECOND);
    limiter.pause_for(SECOND);
    limiter.pause_until(clock.now() + ms(1500));
    assert_eq!(limiter.snapshot().paused_for, 2 * SECOND);
    let rejected = limiter.try_acquire().unwrap_err();
    assert_eq!(rejected.reason(), Reason::RateLimited);
    assert_eq!(rejected.retry_after(), Some(2 * SECOND));
    assert_eq!(limiter.peek().retry_after, Some(2 * SECOND));
    assert!(!limiter.peek().allowed && limiter.peek().remaining == 0);
    let reservation = limiter.reserve(1);
    assert_eq!(reservation.unwrap_err().retry_after(), Some(2 * SECOND));
    // A call that waits has its turn last; one that cannot wait so long is rejected.
    let both = join(limiter.acquire(), limiter.acquire_within(1, ms(1999)));
    let (waited, rejected) = run(&clock, both);
    waited.unwrap();
    assert_eq!(rejected.unwrap_err().retry_after(), Some(2 * SECOND));
    assert_eq!(clock.now().as_nanos(), 2_000_000_000);
    assert_eq!(limiter.snapshot().paused_for, Duration::ZERO);
    assert_eq!(drain(&limiter), 1);
}

#[test]
fn the_end_of_a_pause_admits_no_burst_of_waiters() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10).leaky_bucket(100));
    limiter.pause_for(5 * SECOND);
    let served = RefCell::new(Vec::new());
    run(
        &clock,
        join_all((0..4).map(|_| async {
            limiter.acquire().await.unwrap();
            served.borrow_mut().push(clock.now().as_nanos() / 1_000_000);
        })),
    );
    assert_eq!(served.into_inner(), [5000, 5100, 5200, 5300]);
}

/// Makes acquires that are always ready in a loop until another task has run.
#[cfg(feature = "tokio")]
async fn lets_other_tasks_run(acquire: impl AsyncFn()) {
    let ran = std::rc::Rc::new(std::cell::Cell::new(false));
    let local = tokio::task::LocalSet::new();
    let other = ran.clone();
    local.spawn_local(async move { other.set(true) });
    local
        .run_until(async {
            for round in 0..1_000 {
                acquire().await;
                if ran.get() {
                    assert!(round > 1, "not at each");
                    return;
                }
            }
            panic!("the other task has starved");
        })
        .await;
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_loop_of_ready_acquires_lets_other_tasks_run() {
    let limiter = RateLimiter::new(Quota::per_second(1_000_000)).unwrap();
    lets_other_tasks_run(async || limiter.acquire().await.unwrap()).await;
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn an_acquire_that_waits_consumes_none_of_the_budget_of_its_task() {
    let limiter = RateLimiter::new(Quota::per_second(1)).unwrap();
    limiter.try_acquire().unwrap();
    let mut waiter = Box::pin(limiter.acquire());
    for _ in 0..1_000 {
        assert!(futures::poll!(waiter.as_mut()).is_pending());
    }
    let other = RateLimiter::new(Quota::per_second(1)).unwrap();
    assert!(futures::poll!(std::pin::pin!(other.acquire())).is_ready());
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_loop_of_ready_acquires_of_a_key_lets_other_tasks_run() {
    for quota in [
        Quota::per_second(1_000_000),
        Quota::new(1_000_000, SECOND).fixed_window(),
    ] {
        let limiter = backstop::KeyedRateLimiter::<u32>::builder()
            .quota(quota)
            .build()
            .unwrap();
        lets_other_tasks_run(async || limiter.acquire(&7).await.unwrap()).await;
    }
}
