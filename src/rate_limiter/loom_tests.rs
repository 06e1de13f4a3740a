//! Model checks of limiters. Run with `RUSTFLAGS="--cfg backstop_loom" cargo test --release --lib loom_`.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::state::{ExactRate, Gcra};
use super::token_bucket::TokenBucket;
use super::{Inherit, Quota, RateLimiter};
use crate::clock::ManualClock;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

const SECOND: Duration = Duration::from_secs(1);

/// Wakes a thread of the model.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn limiter(quota: Quota) -> RateLimiter {
    let clock = ManualClock::new();
    clock.advance(1000 * SECOND);
    RateLimiter::builder()
        .quota(quota)
        .clock(clock)
        .build()
        .unwrap()
}

fn bucket(burst: u64) -> TokenBucket {
    let gcra = Gcra::new(ExactRate::new(1, SECOND, 8), burst);
    TokenBucket::new(&gcra, 0)
}

#[test]
fn loom_a_bucket_grants_exactly_its_tokens() {
    loom::model(|| {
        let bucket = Arc::new(bucket(2));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let bucket = bucket.clone();
                thread::spawn(move || u32::from(bucket.take(Instant::ORIGIN, 1).is_ok()))
            })
            .collect();
        let mut taken = u32::from(bucket.take(Instant::ORIGIN, 1).is_ok());
        for taker in takers {
            taken += taker.join().unwrap();
        }
        assert_eq!(taken, 2);
    });
}

#[test]
fn loom_a_quota_changed_meanwhile_loses_and_gains_nothing() {
    // A full bucket. Its state is the same number under both rules: a second in nanoseconds.
    changed_meanwhile(Instant::ORIGIN + SECOND);
}

#[test]
fn loom_a_quota_changed_at_the_origin_of_the_clock_loses_and_gains_nothing() {
    changed_meanwhile(Instant::ORIGIN);
}

fn changed_meanwhile(now: Instant) {
    // Bounded to two preemptions, because all interleavings take six minutes. They pass.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let old = Gcra::new(ExactRate::new(1, SECOND, 8), 2);
        let bucket = Arc::new(TokenBucket::new(&old, now.as_nanos()));
        let taker = {
            let bucket = bucket.clone();
            thread::spawn(move || u32::from(bucket.take(now, 1).is_ok()))
        };
        // Half the price for the same number of tokens.
        let new = Gcra::new(ExactRate::new(2, SECOND, 8), 2);
        bucket.replace(now, &new, 0, Inherit::AsIs);
        let mut taken = taker.join().unwrap();
        while bucket.take(now, 1).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 2);
    });
}

/// A thread is preempted between reading the state and updating it. Meanwhile the quota changes, and other threads
/// take and return tokens until the state is the same number again, in the new unit.
#[test]
fn loom_a_caller_from_before_a_change_of_the_quota_takes_nothing_at_the_old_price() {
    for changes in [1, 2] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let now = Instant::ORIGIN + SECOND;
            let nanos = Gcra::new(ExactRate::new(1_000_000_000, SECOND, 8), 2);
            let slow = Gcra::new(ExactRate::new(1, SECOND, 8), 2);
            // A full bucket.
            let bucket = Arc::new(TokenBucket::new(&slow, now.as_nanos()));
            if changes == 2 {
                bucket.replace(now, &nanos, 0, Inherit::AsIs);
                bucket.replace(now, &slow, 0, Inherit::AsIs);
            }
            let taker = {
                let bucket = bucket.clone();
                thread::spawn(move || bucket.take(now, 1).is_ok())
            };
            bucket.replace(now, &nanos, 0, Inherit::AsIs);
            assert!(bucket.take(now, 1).is_ok());
            bucket.give(now, 1);
            assert!(taker.join().unwrap());
            let (gcra, tat) = bucket.copy();
            assert_eq!(
                gcra.availability(tat, now).available,
                1,
                "two, and one was taken"
            );
        });
    }
}

#[test]
fn loom_a_thread_that_takes_a_token_observes_what_happened_before_it_was_returned() {
    loom::model(|| {
        let bucket = Arc::new(bucket(1));
        assert!(bucket.take(Instant::ORIGIN, 1).is_ok());
        let work = Arc::new(AtomicU64::new(0));
        let taker = {
            let (bucket, work) = (bucket.clone(), work.clone());
            thread::spawn(move || {
                if bucket.take(Instant::ORIGIN, 1).is_ok() {
                    assert_eq!(work.load(Ordering::Relaxed), 1);
                }
            })
        };
        work.store(1, Ordering::Relaxed);
        bucket.give(Instant::ORIGIN, 1);
        taker.join().unwrap();
    });
}

#[test]
fn loom_a_reservation_given_back_is_there_for_others() {
    loom::model(|| {
        let limiter = limiter(Quota::per_second(1).burst(2));
        let other = limiter.clone();
        let reserving = thread::spawn(move || {
            let reservation = other.reserve(1).unwrap();
            reservation.commit(0);
        });
        let mut taken = u32::from(limiter.try_acquire().is_ok());
        reserving.join().unwrap();
        while limiter.try_acquire().is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 2);
    });
}

/// The first waiter is cancelled while tokens come back, so the second must get them. Loom would report a lost
/// wake-up as a deadlock.
#[test]
fn loom_a_waiter_that_leaves_wakes_the_next() {
    loom::model(|| {
        let limiter = limiter(Quota::per_second(1).burst(1));
        limiter.try_acquire().unwrap();
        let other = limiter.clone();
        let leaving = thread::spawn(move || {
            let mut first = pin!(other.acquire());
            let poll = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            other.add(1);
            matches!(poll, Poll::Ready(Ok(())))
        });
        let second = limiter.clone();
        let waiting = thread::spawn(move || block_on(second.acquire()).unwrap());
        if leaving.join().unwrap() {
            limiter.add(1);
        }
        waiting.join().unwrap();
        assert_eq!(limiter.snapshot().waiting, 0);
    });
}

#[test]
fn loom_no_call_is_rejected_because_a_quota_changes() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let now = Instant::ORIGIN + SECOND;
        let old = Gcra::new(ExactRate::new(1, SECOND, 8), 2);
        let bucket = Arc::new(TokenBucket::new(&old, 1_000_000_000));
        let taker = {
            let bucket = bucket.clone();
            thread::spawn(move || bucket.take(now, 1).is_ok())
        };
        let new = Gcra::new(ExactRate::new(2, SECOND, 8), 2);
        bucket.replace(now, &new, 0, Inherit::AsIs);
        assert!(taker.join().unwrap(), "there is a token under both rules");
    });
}

/// Checks that a change of the limits wakes a waiter. Loom would report a lost wake-up as a deadlock.
fn wakes_a_waiter(give: impl Fn(&RateLimiter) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let limiter = limiter(Quota::per_second(1).burst(1));
        limiter.try_acquire().unwrap();
        let other = limiter.clone();
        let giving = thread::spawn(move || give(&other));
        block_on(limiter.acquire()).unwrap();
        giving.join().unwrap();
    });
}

#[test]
fn loom_tokens_that_are_added_wake_a_waiter() {
    wakes_a_waiter(|limiter| limiter.add(1));
}

#[test]
fn loom_tokens_that_come_back_wake_a_waiter() {
    loom::model(|| {
        let limiter = limiter(Quota::per_second(1).burst(1));
        let reservation = limiter.reserve(1).unwrap();
        let giving = thread::spawn(move || reservation.refund());
        block_on(limiter.acquire()).unwrap();
        giving.join().unwrap();
    });
}

#[test]
fn loom_a_new_quota_wakes_a_waiter() {
    wakes_a_waiter(|limiter| {
        let quota = Quota::per_second(1).burst(1);
        limiter.set_quota(quota, Inherit::Reset).unwrap();
    });
}
