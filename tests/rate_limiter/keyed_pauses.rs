//! Pauses of keyed limiters, and of single keys.

use std::time::Duration;

use backstop::rate_limiter::{KeyedRateLimiter, Quota};
use backstop::{Clock, ManualClock, Reason};
use futures::future::{join, join_all};

use super::keyed_options::limits;
use super::{SECOND, ms, run};

#[test]
fn of_several_pauses_the_later_one_counts_and_they_never_add_up() {
    for quota in [Quota::per_second(10), Quota::per_second(10).sliding_log()] {
        let clock = ManualClock::new();
        let limits = limits(&clock, quota);
        limits.pause_for(2 * SECOND);
        limits.pause_for(SECOND);
        limits.pause_until(clock.now() + SECOND);
        assert_eq!(limits.snapshot().paused_for, 2 * SECOND);
        let rejected = limits.try_acquire(&1).unwrap_err();
        assert_eq!(rejected.retry_after(), Some(2 * SECOND), "{quota:?}");
        assert_eq!(limits.decide(&2, 1).retry_after, Some(2 * SECOND));
        assert!(limits.reserve(&1, 1).is_err());

        // One key for longer.
        assert!(limits.pause_key_for(&1, 3 * SECOND));
        assert!(limits.pause_key_for(&1, ms(1)));
        clock.advance(2 * SECOND);
        assert_eq!(limits.snapshot().paused_for, Duration::ZERO);
        assert!(limits.try_acquire(&2).is_ok());
        limits.evict_idle();
        let retry_after = limits.peek(&1).unwrap().retry_after;
        assert_eq!(retry_after, Some(SECOND), "a paused key stays");
        clock.advance(SECOND);
        assert_eq!(limits.peek(&1).unwrap().remaining, 10);
        assert!(limits.try_acquire(&1).is_ok());
        clock.advance(10 * SECOND);
        limits.evict_idle();
        assert!(limits.is_empty(), "{quota:?}");
    }
}

#[test]
fn calls_that_wait_wait_for_the_end_of_a_pause_and_keep_to_the_rate_after_it() {
    for quota in [
        Quota::per_second(10).burst(1),
        Quota::per_second(10).leaky_bucket(100),
    ] {
        for of_key in [false, true] {
            let clock = ManualClock::new();
            let limits = limits(&clock, quota);
            let start = clock.now();
            let waiters = join_all((0..5).map(|_| async {
                limits.acquire(&1).await.unwrap();
                clock.now().saturating_duration_since(start).as_millis()
            }));
            let pause = async {
                // Two have had their turns, and two more turns fall into the pause.
                clock.sleep(ms(150)).await;
                match of_key {
                    true => assert!(limits.pause_key_for(&1, ms(200))),
                    false => limits.pause_for(ms(200)),
                }
            };
            let (mut served, ()) = run(&clock, join(waiters, pause));
            served.sort_unstable();
            assert_eq!(served[..2], [0, 100], "{quota:?} {of_key}");
            assert!(served[2] >= 350, "{quota:?} {of_key}: {served:?}");
            let apart = served[2..].windows(2).all(|pair| pair[1] - pair[0] >= 50);
            assert!(apart && served[4] >= 450, "{quota:?} {of_key}: {served:?}");
            assert!(served[4] <= 750, "{quota:?} {of_key}: {served:?}");
        }
    }
}

#[test]
fn a_waiter_whose_turn_a_pause_moves_beyond_its_limit_gives_up_then() {
    let clock = ManualClock::new();
    let limits = limits(&clock, Quota::per_second(10).burst(1));
    limits.try_acquire(&1).unwrap();
    let waiting = limits.acquire_within(&1, 1, ms(300));
    let pause = async {
        clock.sleep(ms(50)).await;
        limits.pause_for(SECOND);
    };
    let (result, ()) = run(&clock, join(waiting, pause));
    assert_eq!(result.unwrap_err().reason(), Reason::QueueTimeout);
}

#[test]
fn a_rejection_during_a_pause_names_the_time_at_which_the_key_admits() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).sliding_log(),
        Quota::per_second(10).sliding_counter(),
    ];
    for quota in quotas {
        let clock = ManualClock::new();
        let limits = KeyedRateLimiter::<u32>::builder()
            .quota(quota)
            .clock(clock.clone())
            .build()
            .unwrap();
        while limits.try_acquire(&1).is_ok() {}
        limits.pause_for(Duration::from_millis(20));
        let told = limits.try_acquire(&1).unwrap_err().retry_after().unwrap();
        assert_eq!(limits.peek(&1).unwrap().retry_after, Some(told), "{quota}");
        let too_much = limits.try_acquire_n(&1, 11).unwrap_err();
        assert_eq!(too_much.reason(), Reason::CostExceedsLimit, "{quota}");

        clock.advance(told - Duration::from_nanos(1));
        assert!(limits.try_acquire(&1).is_err(), "{quota}");
        clock.advance(Duration::from_nanos(1));
        assert!(limits.try_acquire(&1).is_ok(), "{quota}");
    }
}

#[test]
fn a_pause_that_ends_exactly_at_the_limit_of_the_wait_is_waited_out() {
    let clock = ManualClock::new();
    let limits = limits(&clock, Quota::per_second(10));
    limits.pause_for(SECOND);
    let latest = clock.now() + SECOND;
    run(&clock, limits.acquire_within(&1, 1, SECOND)).unwrap();
    assert_eq!(clock.now(), latest);
    limits.pause_for(SECOND);
    let too_short = SECOND - Duration::from_nanos(1);
    let rejected = run(&clock, limits.acquire_within(&1, 1, too_short));
    assert_eq!(rejected.unwrap_err().reason(), Reason::RateLimited);
}
