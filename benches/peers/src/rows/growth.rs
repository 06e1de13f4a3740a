//! Growth: the cost of a call as the number of slices, layers, waiters, or keys rises, and the memory of a
//! handle.
//!
//! Ours runs against itself at the smallest size, so the ratio is the growth of the cost. Keys run against
//! governor at the same size.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::{Bulkhead, CircuitBreaker, FastClock, Policy, Quota, RateLimiter, Timeout};

use super::rate_limiter::{filled, governor_filled, keyed_at};
use super::{Row, Target};
use crate::alloc;
use crate::measure::Candidate;
use crate::work::{blocking, enter, future, leak, ready};

const HOUR: Duration = Duration::from_secs(3600);
/// Tolerance for a flat cost.
const FLAT: f64 = 1.25;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![];
    rows.extend(slices());
    rows.extend(depth());
    rows.extend(waiters());
    rows.extend([1, 100_000].map(keys));
    rows.extend(memory());
    rows
}

/// A breaker that records with a failure in its window, so that every slice is evaluated.
fn slices() -> impl Iterator<Item = Row> {
    [10, 100, 1024].into_iter().map(|slices| {
        Row::race(
            &format!("breaker record after a failure, {slices} slices against 1"),
            1,
            FLAT,
            recording(slices),
            vec![recording(1)],
        )
    })
}

fn recording(slices: u32) -> Candidate {
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::failure_rate(0.9).within(HOUR).slices(slices))
        .clock(FastClock::new())
        .build()
        .expect("the settings are valid");
    let breaker = leak(breaker);
    let count = AtomicU64::new(0);
    blocking(&format!("{slices} slices"), move || {
        // One failure in 64 keeps the window from becoming clean and from tripping.
        let failed = count.fetch_add(1, Ordering::Relaxed) % 64 == 0;
        match breaker.try_acquire() {
            Ok(permit) if failed => permit.failure(),
            Ok(permit) => permit.success(),
            Err(_) => unreachable!("the rate stays far below 0.9"),
        }
    })
}

/// Nested timeouts: the cost of a layer does not depend on their number.
fn depth() -> Vec<Row> {
    fn timeout(seconds: u64) -> Timeout {
        Timeout::builder()
            .after(Duration::from_secs(seconds))
            .clock(FastClock::new())
            .build()
            .expect("the settings are valid")
    }
    fn against(layers: u64, ours: Candidate) -> Row {
        let one = leak(timeout(1));
        let peer = Candidate::new(format!("one layer, {layers} times"), {
            let one = future("one", || one.call(ready));
            move |operations| one.run(operations * layers)
        });
        let name = format!("depth: {layers} timeouts, ready, against {layers} calls through one");
        Row::race(&name, 1, 1.0, ours, vec![peer])
    }
    let t = timeout;
    let two = leak((t(2), t(1)));
    let five = leak((t(5), t(4), t(3), t(2), t(1)));
    let twelve = leak((
        t(12),
        t(11),
        t(10),
        t(9),
        t(8),
        t(7),
        t(6),
        t(5),
        t(4),
        t(3),
        t(2),
        t(1),
    ));
    vec![
        against(2, future("two", || two.call(ready))),
        against(5, future("five", || five.call(ready))),
        against(12, future("twelve", || twelve.call(ready))),
    ]
}

/// A waiter that leaves the queue and enters it again behind others.
fn waiters() -> Vec<Row> {
    let row = |name: &str, of: fn(usize) -> Candidate, many: usize| {
        Row::race(
            &format!("{name}, {many} waiters against 1"),
            1,
            // Logarithmic at worst: 2^13 waiters, and their cache misses.
            4.0,
            of(many),
            vec![of(1)],
        )
    };
    [100, 10_000]
        .into_iter()
        .flat_map(|many| {
            [
                row("bulkhead, enter and leave the queue", in_bulkhead, many),
                row("rate limiter, enter and leave the queue", in_limiter, many),
            ]
        })
        .collect()
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// `waiters` calls that wait forever, and one behind them that enters and leaves.
fn queue(
    name: &str,
    waiters: usize,
    wait: impl Fn() -> Waiting + Send + Sync + 'static,
) -> Candidate {
    let mut cx = Context::from_waker(Waker::noop());
    let parked = {
        let _entered = enter();
        let mut parked: Vec<Waiting> = (0..waiters).map(|_| wait()).collect();
        for future in &mut parked {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        Mutex::new(parked)
    };
    let name = format!("{name}, {waiters}");
    Candidate::new(name, move |operations| {
        let _entered = enter();
        let parked = parked.lock().expect("nothing panics while it is held");
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..operations {
            let mut late = wait();
            let polled = late.as_mut().poll(&mut cx);
            assert_eq!(black_box(polled), Poll::Pending);
        }
        drop(parked);
    })
}

fn in_bulkhead(waiters: usize) -> Candidate {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(20_000)
        .clock(FastClock::new())
        .build();
    let bulkhead = leak(bulkhead.expect("the settings are valid"));
    std::mem::forget(bulkhead.try_acquire().expect("there is one permit"));
    queue("bulkhead", waiters, move || {
        Box::pin(async move {
            drop(bulkhead.acquire().await);
        })
    })
}

fn in_limiter(waiters: usize) -> Candidate {
    let limiter = RateLimiter::builder()
        .quota(Quota::new(1, Duration::from_secs(60)))
        .max_wait(Duration::MAX)
        .max_waiting(20_000)
        .clock(FastClock::new())
        .build();
    let limiter = leak(limiter.expect("the settings are valid"));
    limiter.try_acquire().expect("there is one token");
    queue("rate limiter", waiters, move || {
        Box::pin(async move {
            let _ = limiter.acquire().await;
        })
    })
}

/// Rows whose maps take seconds to fill and need a gigabyte.
pub fn large() -> Vec<Row> {
    vec![keys(10_000_000)]
}

/// Numbers of keys that the ordinary rows do not have.
fn keys(keys: u64) -> Row {
    // So many tokens that the calls of a single key do not use them up, and so few a second that no key is idle.
    let quota = (u32::MAX, Duration::from_secs(1));
    keyed_at(
        &format!("growth: keyed token bucket, {keys} keys"),
        keys,
        (filled(keys, quota), governor_filled(keys, quota)),
    )
}

/// Bytes on the heap for one handle with default settings.
fn memory() -> Vec<Row> {
    fn bytes<T>(make: impl Fn() -> Result<T, backstop::ConfigError>) -> f64 {
        // The first handle may initialize shared state.
        drop(make());
        let before = alloc::held();
        let handle = make().expect("the settings are valid");
        let bytes = alloc::held() - before;
        drop(handle);
        bytes as f64
    }
    // At most half of the earlier size of the handles.
    let row = |name: &str, before: f64, bytes: f64| {
        let name = format!("memory of a default {name}");
        Row::known(
            &name,
            "bytes",
            Target::Ratio(0.5),
            bytes,
            [("before", before)],
        )
    };
    let limiter = || RateLimiter::builder().quota(Quota::per_second(100)).build();
    vec![
        row(
            "circuit breaker",
            1993.0,
            bytes(|| CircuitBreaker::builder().build()),
        ),
        row("rate limiter", 1000.0, bytes(limiter)),
        row("bulkhead", 1224.0, bytes(|| Bulkhead::builder().build())),
    ]
}
