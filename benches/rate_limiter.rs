//! The cost of a decision: each algorithm, admitted and rejected, and keyed limiters.
//!
//! ```sh
//! cargo bench --bench rate_limiter --features fast-clock
//! ```
//!
//! With two threads, a figure is the time in which each of them makes one decision on the same
//! limiter. `benches/peers` compares with other crates.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use backstop::{ClockHandle, KeyedRateLimiter, Quota, RateLimiter};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};

const DAY: Duration = Duration::from_secs(86_400);
/// So many that no loop uses them up.
const PLENTY: u64 = 1_000_000_000;

type Shape = fn(Quota) -> Quota;

/// Each algorithm, and the largest rate it is asked to count.
const ALGORITHMS: [(&str, u64, Shape); 6] = [
    ("token_bucket", PLENTY, |quota| quota),
    ("leaky_bucket", PLENTY, |quota| quota.leaky_bucket(1)),
    ("fixed_window", PLENTY, Quota::fixed_window),
    (
        "fixed_window_from_first",
        PLENTY,
        Quota::fixed_window_from_first,
    ),
    // In windows of ten microseconds, so that its log holds a few hundred calls.
    ("sliding_log", 1_000_000, |quota| {
        Quota::new(
            quota.tokens(),
            quota.period().min(Duration::from_micros(10)),
        )
        .sliding_log()
    }),
    ("sliding_counter", PLENTY, Quota::sliding_counter),
];

/// The CPU's counter where there is one to choose, or the system's clock.
fn clock() -> ClockHandle {
    #[cfg(feature = "fast-clock")]
    return backstop::FastClock::new().into();
    #[cfg(not(feature = "fast-clock"))]
    return backstop::BlockingClock.into();
}

fn limiter(quota: Quota, stripes: usize) -> RateLimiter {
    RateLimiter::builder()
        .quota(quota)
        .stripes(stripes)
        .clock(clock())
        .build()
        .expect("a sound quota")
}

fn algorithms(c: &mut Criterion) {
    let mut group = c.benchmark_group("allowed");
    for (name, most, shape) in ALGORITHMS {
        let limiter = limiter(shape(Quota::per_second(most)), 1);
        for threads in [1, 2] {
            bench(&mut group, name, threads, |_| limiter.try_acquire().is_ok());
        }
    }
    let striped = limiter(Quota::per_second(PLENTY), 8);
    for threads in [1, 2] {
        bench(&mut group, "token_bucket, 8 stripes", threads, |_| {
            striped.try_acquire().is_ok()
        });
    }
    group.finish();

    let mut group = c.benchmark_group("rejected");
    for (name, _, shape) in ALGORITHMS {
        // The log of a day, with one call in it.
        let quota = match name {
            "sliding_log" => Quota::new(1, DAY).sliding_log(),
            _ => shape(Quota::new(1, DAY)),
        };
        let limiter = limiter(quota, 1);
        while limiter.try_acquire().is_ok() {}
        for threads in [1, 2] {
            bench(&mut group, name, threads, |_| limiter.try_acquire().is_ok());
        }
    }
    group.finish();
}

fn keyed(c: &mut Criterion) {
    let mut group = c.benchmark_group("keyed");
    for keys in [1, 1000, 1_000_000] {
        // They earn a token in an hour: none is ever full again, and none is evicted.
        let limits = KeyedRateLimiter::<u64>::builder()
            .quota(Quota::per_hour(1).burst(1_000_000))
            .max_keys(2_000_000)
            .clock(clock())
            .build()
            .expect("a sound quota");
        for key in 0..keys {
            limits.try_acquire(&key).expect("there is room");
        }
        for threads in [1, 2] {
            bench(&mut group, &format!("{keys} keys"), threads, |turn| {
                // A golden-ratio walk visits them in no order a cache could guess.
                let spread = u128::from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let key = ((spread * u128::from(keys)) >> 64) as u64;
                limits.try_acquire(&key).is_ok()
            });
        }
    }
    group.finish();
}

/// Measures `decide`, called with ever other numbers, on so many threads at once.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    threads: u64,
    decide: impl Fn(u64) -> bool + Sync,
) {
    let id = BenchmarkId::new(name, threads);
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|turns| {
            let start_line = Barrier::new(threads as usize);
            let times = thread::scope(|scope| {
                let work = |thread: u64| {
                    let (start_line, decide) = (&start_line, &decide);
                    scope.spawn(move || {
                        start_line.wait();
                        let start = Instant::now();
                        for turn in 0..turns {
                            black_box(decide(turn + (thread << 40)));
                        }
                        start.elapsed()
                    })
                };
                let threads: Vec<_> = (0..threads).map(work).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join())
                    .collect::<Vec<_>>()
            });
            let times = times.into_iter().map(|time| time.expect("nothing panics"));
            times.sum::<Duration>() / threads as u32
        });
    });
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(10)
}

criterion_group! {
    name = benches;
    config = short();
    targets = algorithms, keyed
}
criterion_main!(benches);
