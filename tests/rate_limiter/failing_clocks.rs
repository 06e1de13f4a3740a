//! Clocks of users that panic while a call gives back what it holds.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};

use backstop::Policy;
use backstop::rate_limiter::KeyedRateLimiter;

use super::*;

/// A clock that panics when it is read while it is armed.
#[derive(Clone, Debug)]
struct Failing {
    inner: ManualClock,
    armed: Arc<AtomicBool>,
}

impl Failing {
    fn new() -> Self {
        Self {
            inner: ManualClock::new(),
            armed: Arc::default(),
        }
    }

    /// Runs `act` while the clock panics, and checks that the panic goes on.
    fn during(&self, act: impl FnOnce()) {
        self.armed.store(true, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(act));
        self.armed.store(false, Ordering::Relaxed);
        let panic = result.expect_err("the clock panics");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a clock that panics"));
    }
}

impl Clock for Failing {
    fn now(&self) -> Instant {
        assert!(!self.armed.load(Ordering::Relaxed), "a clock that panics");
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

/// Ten at once and ten an hour, so that nothing comes back by time.
const ALGORITHMS: [Quota; 4] = [
    Quota::per_hour(10),
    Quota::per_hour(10).fixed_window(),
    Quota::per_hour(10).sliding_log(),
    Quota::per_hour(10).sliding_counter(),
];

fn limiter(clock: &Failing, quota: Quota) -> RateLimiter {
    let builder = RateLimiter::builder().quota(quota).clock(clock.clone());
    builder.build().unwrap()
}

fn keyed(clock: &Failing, quota: Quota) -> KeyedRateLimiter<u64> {
    let builder = KeyedRateLimiter::builder().quota(quota);
    builder.clock(clock.clone()).build().unwrap()
}

fn started<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let poll = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll.is_pending());
    future
}

#[test]
fn a_cancelled_waiter_leaves_the_queue() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limiter = limiter(&clock, quota);
        drain(&limiter);
        let waiter = started(limiter.acquire());
        clock.during(|| drop(waiter));
        assert_eq!(limiter.snapshot().waiting, 0, "{quota}");
        limiter.add(1);
        assert!(limiter.try_acquire().is_ok(), "{quota}");
    }
}

#[test]
fn a_waiter_that_was_served_and_is_cancelled_gives_its_tokens_back() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limiter = limiter(&clock, quota);
        drain(&limiter);
        let waiter = started(limiter.acquire_n(3));
        limiter.add(3);
        assert_eq!(limiter.peek().remaining, 0, "{quota}: it was served");
        clock.during(|| drop(waiter));
        assert_eq!(limiter.peek().remaining, 3, "{quota}");
    }
}

#[test]
fn a_call_whose_clock_panics_after_its_wait_spends_no_tokens() {
    let clock = Failing::new();
    let limiter = RateLimiter::builder().quota(Quota::per_hour(10));
    let limiter = limiter.max_wait(Duration::MAX).clock(clock.clone());
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let mut call = started(limiter.call(|| async { Ok::<_, ()>(()) }));
    limiter.add(4);
    clock.during(|| {
        let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    });
    drop(call);
    assert_eq!(limiter.peek().remaining, 4);
    assert_eq!(limiter.snapshot().waiting, 0);
}

#[test]
fn reservations_are_settled() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limiter = limiter(&clock, quota);
        let remaining = || limiter.peek().remaining;
        let reserve = || limiter.reserve(4).unwrap();

        let reserved = reserve();
        clock.during(|| drop(reserved));
        let reserved = reserve();
        clock.during(|| reserved.refund());
        assert_eq!(remaining(), 10, "{quota}");
        let reserved = reserve();
        clock.during(|| reserved.commit(1));
        assert_eq!(remaining(), 9, "{quota}");
        let reserved = reserve();
        clock.during(|| reserved.commit(6));
        assert_eq!(remaining(), 3, "{quota}: what was consumed is charged");
    }
}

#[test]
fn reservations_of_a_key_are_settled() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limits = keyed(&clock, quota);
        let remaining = || limits.peek(&7).unwrap().remaining;
        let reserve = || limits.reserve(&7, 4).unwrap();

        let reserved = reserve();
        settle(&clock, || drop(reserved));
        let reserved = reserve();
        settle(&clock, || reserved.refund());
        assert_eq!(remaining(), 10, "{quota}");
        let reserved = reserve();
        settle(&clock, || reserved.commit(1));
        assert_eq!(remaining(), 9, "{quota}");
        let reserved = reserve();
        settle(&clock, || reserved.commit(6));
        assert_eq!(remaining(), 3, "{quota}: what was consumed is charged");
    }
}

/// As [`Failing::during`]. The clock need not be read.
fn settle(clock: &Failing, act: impl FnOnce()) {
    clock.armed.store(true, Ordering::Relaxed);
    let _ = catch_unwind(AssertUnwindSafe(act));
    clock.armed.store(false, Ordering::Relaxed);
}

#[test]
fn after_a_cancelled_wait_for_a_key_nothing_is_left() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limits = keyed(&clock, quota);
        while limits.try_acquire(&7).is_ok() {}
        let waiter = started(limits.acquire_n(&7, 3));
        settle(&clock, || drop(waiter));
        limits.add(&7, 2);
        assert!(limits.try_acquire_n(&7, 2).is_ok(), "{quota}");
    }
}

#[test]
fn a_waiter_of_a_key_whose_clock_panics_at_its_turn_spends_no_tokens() {
    for quota in ALGORITHMS {
        let clock = Failing::new();
        let limits = keyed(&clock, quota);
        while limits.try_acquire(&7).is_ok() {}
        let mut waiter = started(limits.acquire_n(&7, 3));
        limits.add(&7, 3);
        clock.during(|| {
            let _ = waiter
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
        });
        drop(waiter);
        assert!(limits.try_acquire_n(&7, 3).is_ok(), "{quota}");
    }
}
