//! What rate limiters allocate: nothing on the way of a call that need not wait, and so much per key.
//!
//! `allocation-counter` counts the program's own global allocator, which is why this test is a
//! program of its own.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use allocation_counter::measure;
use backstop::rate_limiter::{KeyedRateLimiter, Quota};
use backstop::{ManualClock, Policy, RateLimiter};

fn limiter(quota: Quota) -> RateLimiter {
    let clock = ManualClock::new();
    RateLimiter::builder()
        .quota(quota)
        .max_wait(Duration::ZERO)
        .clock(clock)
        .build()
        .unwrap()
}

fn keyed<K>(quota: Quota, max_keys: usize) -> KeyedRateLimiter<K> {
    KeyedRateLimiter::builder()
        .quota(quota)
        .max_keys(max_keys)
        .clock(ManualClock::new())
        .build()
        .unwrap()
}

fn ready<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut task = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut task).is_ready());
}

#[test]
fn a_call_that_need_not_wait_allocates_nothing() {
    let quotas = [
        Quota::per_hour(2).burst(100),
        Quota::per_hour(100).fixed_window(),
        Quota::per_hour(100).sliding_counter(),
        Quota::per_hour(2).leaky_bucket(10),
    ];
    for quota in quotas {
        let limiter = limiter(quota);
        // The counter of rejections is allocated with the first one.
        let _ = limiter.try_acquire_n(1000);
        let allocated = measure(|| {
            for _ in 0..50 {
                let _ = black_box(limiter.try_acquire());
                let _ = black_box(limiter.decide(2));
                let _ = black_box(limiter.reserve(1).map(|reservation| reservation.commit(1)));
                ready(limiter.call(|| async { Ok::<_, ()>(1) }));
            }
        });
        assert_eq!(allocated.count_total, 0, "{quota:?}");
        let free = self::limiter(quota);
        let allocated = measure(|| ready(free.acquire()));
        assert_eq!(allocated.count_total, 0, "{quota:?}");
    }
}

#[test]
fn a_limiter_takes_half_a_kilobyte() {
    let clock = ManualClock::new();
    let mut built = None;
    let allocated = measure(|| {
        let builder = RateLimiter::builder().quota(Quota::per_second(10));
        built = Some(builder.clock(clock.clone()).build().unwrap());
    });
    println!("{} bytes", allocated.bytes_current);
    assert!(allocated.bytes_current <= 500, "{allocated:?}");
}

#[test]
fn known_keys_are_looked_up_without_allocating() {
    let limits = keyed::<String>(Quota::per_hour(10), 1000);
    // The first rejection allocates the counter of rejections.
    while limits.try_acquire("a client with a long name").is_ok() {}
    let allocated = measure(|| {
        for _ in 0..50 {
            let _ = black_box(limits.try_acquire("a client with a long name"));
            let _ = black_box(limits.peek("unknown"));
            let limited = limits.get("a client with a long name");
            ready(limited.call(|| async { Ok::<_, ()>(1) }));
        }
    });
    assert_eq!(allocated.count_total, 0);
}

#[test]
fn a_million_keys_take_less_than_forty_bytes_each() {
    // Also just after the index has doubled, when it is emptiest.
    for keys in [1_000_000_u64, 790_000] {
        let limits = keyed::<u64>(Quota::per_hour(10).burst(10), 2_000_000);
        let allocated = measure(|| {
            for key in 0..keys {
                limits.try_acquire(&key).unwrap();
            }
        });
        let each = allocated.bytes_current as f64 / keys as f64;
        println!("{keys} keys: {each:.1} bytes each");
        assert!(each <= 1.1 * 36.0, "{keys} keys: {each} bytes each");
        assert_eq!(limits.len() as u64, keys);
    }
}

#[test]
fn memory_is_given_back_when_the_keys_have_left() {
    let clock = ManualClock::new();
    let limits = KeyedRateLimiter::<u64>::builder()
        .quota(Quota::per_second(10))
        .max_keys(1_000_000)
        .clock(clock.clone())
        .build()
        .unwrap();
    let allocated = measure(|| {
        for key in 0..100_000 {
            limits.try_acquire(&key).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        limits.evict_idle();
    });
    assert!(limits.is_empty());
    // What is kept is a few places in each of the shards.
    assert!(allocated.bytes_current < 500_000, "{allocated:?}");
}
