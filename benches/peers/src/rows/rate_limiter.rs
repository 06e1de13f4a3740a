//! Rate limiters: one token bucket, and one per key.
//!
//! The rate of the `admitted` rows is out of reach; the limiters of the `rejected` rows have spent their only
//! token of the day. The buckets of the keyed rows hold a million tokens and earn one an hour, so none is ever
//! full again: every lookup finds a key in use, and no key is evicted.

use std::cell::Cell;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use backstop::rate_limiter::RateLimiterBuilder;
use backstop::{FastClock, KeyedRateLimiter, Policy, Quota, RateLimiter};
use governor::clock::MonotonicClock;
use governor::state::{InMemoryState, NotKeyed, keyed::DefaultKeyedStateStore};
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::{Row, Target};
use crate::alloc;
use crate::measure::Candidate;
use crate::work::{blocking, future, leak, ready, service};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const MILLION: u64 = 1_000_000;
/// The burst and the time to a new token of a key: no key is idle during a run.
const FILLED: (u32, Duration) = (MILLION as u32, HOUR);
const UNREACHED: u32 = 1_000_000_000;

type Governor = governor::RateLimiter<NotKeyed, InMemoryState, governor::clock::DefaultClock>;
pub type GovernorKeyed<K> =
    governor::RateLimiter<K, DefaultKeyedStateStore<K>, governor::clock::DefaultClock>;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (threads, of_governor) in [(1, 1.05), (2, 0.5)] {
        rows.push(
            Row::race(
                "token bucket, fast clock, admitted",
                threads,
                of_governor,
                acquire("backstop", fast(plenty())),
                vec![check("governor", leak(Governor::direct(governor_plenty())))],
            )
            .against("governor"),
        );
    }
    for threads in [1, 2] {
        // A rejection writes nothing, so a second thread disturbs neither side, and the clock dominates: the
        // target is the same for both thread counts.
        rows.push(
            Row::race(
                "token bucket, fast clock, rejected",
                threads,
                1.05,
                acquire("backstop", spent(fast(one_a_day()))),
                vec![check("governor", governor_spent())],
            )
            .against("governor"),
        );
    }
    rows.push(Row::race(
        "token bucket, 8 stripes, fast clock, admitted",
        2,
        0.25,
        acquire("backstop", fast(plenty().stripes(8))),
        vec![check("governor", leak(Governor::direct(governor_plenty())))],
    ));
    rows.push(Row::race(
        "token bucket, tokio clock, admitted",
        1,
        1.0,
        acquire("backstop", leak(built(plenty()))),
        vec![monotonic()],
    ));
    rows.push(around_an_operation());
    rows.extend(keyed(
        "keyed token bucket, 1k keys",
        1000,
        [0.8, 0.6],
        (filled(1000, FILLED), governor_filled(1000, FILLED)),
    ));
    let (ours, bytes) = weighed(|| filled(MILLION, FILLED));
    let (governor, governor_bytes) = weighed(|| governor_filled(MILLION, FILLED));
    rows.extend(keyed(
        "keyed token bucket, 1M keys",
        MILLION,
        [0.7, 0.7],
        (ours, governor),
    ));
    rows.push(Row::no_allocations(
        "token bucket, allocations",
        acquire("backstop", fast(plenty())),
        vec![check("governor", leak(Governor::direct(governor_plenty())))],
    ));
    rows.push(keyed_allocations());
    rows.push(Row::known(
        "keyed token bucket, memory of 1M u64 keys",
        "bytes a key",
        Target::Ratio(1.0),
        bytes / MILLION as f64,
        [("governor", governor_bytes / MILLION as f64)],
    ));
    rows
}

/// A limiter that never rejects.
fn plenty() -> RateLimiterBuilder {
    RateLimiter::builder().quota(Quota::per_second(UNREACHED.into()))
}

fn one_a_day() -> RateLimiterBuilder {
    RateLimiter::builder().quota(Quota::new(1, DAY))
}

fn built(builder: RateLimiterBuilder) -> RateLimiter {
    builder.build().expect("a valid quota")
}

fn fast(builder: RateLimiterBuilder) -> &'static RateLimiter {
    leak(built(builder.clock(FastClock::new())))
}

fn spent(limiter: &'static RateLimiter) -> &'static RateLimiter {
    limiter.try_acquire().expect("there is one token");
    limiter
}

fn acquire(name: &str, limiter: &'static RateLimiter) -> Candidate {
    blocking(name, || limiter.try_acquire())
}

fn governor_plenty() -> governor::Quota {
    governor::Quota::per_second(NonZeroU32::new(UNREACHED).expect("not zero"))
}

fn governor_spent() -> &'static Governor {
    let quota = governor::Quota::with_period(DAY).expect("not zero");
    let limiter = leak(Governor::direct(quota));
    limiter.check().expect("there is one token");
    limiter
}

fn check(name: &str, limiter: &'static Governor) -> Candidate {
    blocking(name, || limiter.check())
}

/// governor on the system's clock, which tokio's is too.
fn monotonic() -> Candidate {
    let clock = MonotonicClock;
    let limiter = governor::RateLimiter::direct_with_clock(governor_plenty(), clock);
    let limiter = leak(limiter);
    blocking("governor", || limiter.check())
}

/// The limiter as a policy, and peers in the form of a tower service.
fn around_an_operation() -> Row {
    use tower::Layer;
    let limiter = fast(plenty());
    let operation = leak(Governor::direct(governor_plenty()));
    let layer = RateLimiterLayer::builder()
        .limit_for_period(UNREACHED as usize)
        .refresh_period(Duration::from_secs(1))
        .build()
        .expect("a valid limit");
    Row::race(
        "token bucket around a ready operation, fast clock, admitted",
        1,
        1.1,
        future("backstop", || limiter.call(ready)),
        vec![
            future("governor", || async {
                operation.until_ready().await;
                ready().await
            }),
            service(
                "tower-resilience",
                layer.layer(tower::service_fn(|()| ready())),
            ),
        ],
    )
    .against("governor")
}

/// Random lookups among `keys` present keys, on one thread and on two.
///
/// The maps are filled beforehand. Otherwise the first sample would include that time, the calibration would
/// choose too few calls per sample, and the row would measure cold caches.
fn keyed(
    name: &str,
    keys: u64,
    targets: [f64; 2],
    (ours, governor): (KeyedRateLimiter<u64>, GovernorKeyed<u64>),
) -> impl Iterator<Item = Row> {
    let ours = over_keys("backstop", keys, move |key| {
        black_box(ours.try_acquire(&key)).is_ok()
    });
    let governor = over_keys("governor", keys, move |key| {
        black_box(governor.check_key(&key)).is_ok()
    });
    let row = move |(threads, target)| {
        Row::race(name, threads, target, ours.clone(), vec![governor.clone()])
    };
    [1, 2].into_iter().zip(targets).map(row)
}

/// Returns the row of [`keyed`] with one thread.
pub fn keyed_at(name: &str, keys: u64, maps: (KeyedRateLimiter<u64>, GovernorKeyed<u64>)) -> Row {
    let mut rows = keyed(name, keys, [0.8, 0.6], maps);
    rows.next().expect("the first is the row of one thread")
}

fn over_keys(
    name: &str,
    keys: u64,
    operation: impl Fn(u64) -> bool + Send + Sync + 'static,
) -> Candidate {
    Candidate::new(name, move |operations| {
        let mut random = SEED.get();
        for _ in 0..operations {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Scales the upper bits, without a division.
            let key = ((u128::from(random) * u128::from(keys)) >> 64) as u64;
            black_box(operation(key));
        }
        SEED.set(random);
    })
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) };
}

/// Each key has `burst` tokens, and one more per `period`.
pub fn filled(keys: u64, (burst, period): (u32, Duration)) -> KeyedRateLimiter<u64> {
    let limits = KeyedRateLimiter::builder()
        .quota(Quota::new(1, period).burst(burst.into()))
        .max_keys(2 * keys as usize)
        .clock(FastClock::new())
        .build()
        .expect("a valid quota");
    for key in 0..keys {
        limits.try_acquire(&key).expect("there is room");
    }
    limits
}

pub fn governor_filled(keys: u64, (burst, period): (u32, Duration)) -> GovernorKeyed<u64> {
    let burst = NonZeroU32::new(burst).expect("not zero");
    let quota = governor::Quota::with_period(period).expect("not zero");
    let limits = governor::RateLimiter::dashmap(quota.allow_burst(burst));
    for key in 0..keys {
        limits.check_key(&key).expect("there is room");
    }
    limits
}

/// Lookups by borrowed strings. governor needs an owned key, so it pays for a clone.
fn keyed_allocations() -> Row {
    let limits = leak(
        KeyedRateLimiter::<String>::builder()
            .quota(Quota::new(1, HOUR).burst(MILLION))
            .clock(FastClock::new())
            .build()
            .expect("a valid quota"),
    );
    let burst = NonZeroU32::new(MILLION as u32).expect("not zero");
    let quota = governor::Quota::with_period(HOUR).expect("not zero");
    let governor: &GovernorKeyed<String> =
        leak(governor::RateLimiter::dashmap(quota.allow_burst(burst)));
    Row::no_allocations(
        "keyed token bucket, allocations, borrowed string",
        blocking("backstop", || limits.try_acquire("203.0.113.7")),
        vec![blocking("governor", || {
            governor
                .check_key(&black_box("203.0.113.7").to_owned())
                .is_ok()
        })],
    )
}

/// Returns a map and the heap bytes that it holds.
fn weighed<M>(make: impl FnOnce() -> M) -> (M, f64) {
    let before = alloc::held();
    let map = make();
    (map, (alloc::held() - before) as f64)
}
