//! Wait queues of a process that was stopped, and went on much later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use backstop::Rejected;
use backstop::rate_limiter::KeyedRateLimiter;

use super::*;

type Waiter<'a> = Pin<Box<dyn Future<Output = Result<(), Rejected>> + 'a>>;

/// Polls each waiter once. Returns the number of those that are admitted, and removes them.
fn admitted(waiters: &mut Vec<Waiter<'_>>) -> usize {
    let before = waiters.len();
    let mut task = Context::from_waker(Waker::noop());
    waiters.retain_mut(|waiter| waiter.as_mut().poll(&mut task).is_pending());
    before - waiters.len()
}

/// Calls that wait for turns at ten a second, most of which the process sleeps through. Returns how many are
/// admitted when it goes on, and in each of the seconds after that.
fn after_a_stall(clock: &ManualClock, mut waiters: Vec<Waiter<'_>>, stall: Duration) -> Vec<usize> {
    assert_eq!(admitted(&mut waiters), 5, "the burst");
    clock.advance(stall);
    let mut counts = vec![admitted(&mut waiters)];
    for _ in 0..3 {
        let mut count = 0;
        for _ in 0..20 {
            clock.advance(ms(50));
            count += admitted(&mut waiters);
        }
        counts.push(count);
    }
    counts
}

#[test]
fn after_a_stall_the_waiters_of_a_key_are_admitted_at_the_rate_as_those_of_a_limiter() {
    let quota = Quota::per_second(10).burst(5);
    for stall in [3 * SECOND, 3600 * SECOND] {
        let clock = ManualClock::new();
        let alone = limiter(&clock, quota);
        let waiters = (0..100).map(|_| Box::pin(alone.acquire()) as Waiter<'_>);
        let of_limiter = after_a_stall(&clock, waiters.collect(), stall);

        let clock = ManualClock::new();
        let keyed = KeyedRateLimiter::builder()
            .quota(quota)
            .clock(clock.clone());
        let keyed = keyed.build().unwrap();
        let waiters = (0..100).map(|_| Box::pin(keyed.acquire(&7_u64)) as Waiter<'_>);
        let of_key = after_a_stall(&clock, waiters.collect(), stall);

        assert_eq!(of_key, of_limiter, "{stall:?}");
        assert!(of_key[0] <= 1 + 5, "{of_key:?} after {stall:?}");
        assert_eq!(of_key[1..], [10; 3], "{stall:?}");
    }
}
