//! What a breaker adds to a call. `cargo bench --bench circuit_breaker`; a quiet machine only.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::{Backoff, CircuitBreaker};
use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};

/// Long enough that nothing ends while it is measured.
const LONG: Duration = Duration::from_secs(3600);

fn call(breaker: &CircuitBreaker, fail: bool) {
    match breaker.try_acquire() {
        Ok(permit) if black_box(fail) => permit.failure(),
        Ok(permit) => permit.success(),
        Err(rejected) => drop(black_box(rejected)),
    }
}

/// `iterations` calls on each of `threads` threads, of which one in `every` fails, none for zero.
fn on_threads(breaker: &CircuitBreaker, threads: u64, every: u64, iterations: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for iteration in 1..=iterations {
                    call(breaker, every != 0 && iteration % every == 0);
                }
            });
        }
    });
    start.elapsed()
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    every: u64,
    breaker: &CircuitBreaker,
) {
    for threads in [1, 2] {
        group.bench_function(format!("{name}, {threads} threads"), |bencher| {
            bencher.iter_custom(|iterations| on_threads(breaker, threads, every, iterations));
        });
    }
}

fn build(trip: Trip, slow_calls: bool) -> CircuitBreaker {
    let mut builder = CircuitBreaker::builder()
        .trip_on(trip)
        .half_open(HalfOpen::successes(u32::MAX))
        .break_for(Backoff::fixed(LONG).max(LONG));
    if slow_calls {
        builder = builder.slow_call(LONG);
    }
    #[cfg(feature = "fast-clock")]
    let builder = builder.clock(backstop::FastClock::new());
    builder.build().expect("the settings are sound")
}

fn closed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("closed");
    let rules = [
        ("consecutive", Trip::consecutive(5), false),
        ("last 50 calls", Trip::failure_rate(0.5).of_last(50), false),
        (
            "last 100 calls",
            Trip::failure_rate(0.5).of_last(100),
            false,
        ),
        (
            "30 s",
            Trip::failure_rate(0.5).within(Duration::from_secs(30)),
            false,
        ),
        (
            "30 s and slow calls",
            Trip::failure_rate(0.5).within(Duration::from_secs(30)),
            true,
        ),
    ];
    for (name, trip, slow_calls) in rules {
        for (share, every) in [("clean", 0), ("1 failure in 64", 64)] {
            let breaker = build(trip, slow_calls);
            bench(&mut group, &format!("{name}, {share}"), every, &breaker);
        }
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    let breaker = build(Trip::consecutive(5), false);
    breaker.trip();
    bench(&mut group, "refused", 0, &breaker);
}

fn half_open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("half-open");
    let breaker = build(Trip::consecutive(5), false);
    breaker.half_open();
    bench(&mut group, "trial call", 0, &breaker);
}

criterion_group!(benches, closed, open, half_open);
criterion_main!(benches);
