//! Cost of a call through a circuit breaker: closed with each rule, open, and half-open.
//!
//! ```text
//! cargo bench --bench circuit_breaker --features fast-clock
//! ```
//!
//! The operation is empty, so the figures are those of the breaker alone. `benches/peers` compares with other
//! crates.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, Trip};
use backstop::{CircuitBreaker, ClockHandle, Rejected};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const WINDOW: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

fn benches(criterion: &mut Criterion) {
    closed(criterion);
    open(criterion);
    half_open(criterion);
}

fn closed(criterion: &mut Criterion) {
    let rate = || Trip::failure_rate(0.5);
    let rules: [(&str, CircuitBreakerBuilder); 11] = [
        ("consecutive", builder().trip_on(Trip::consecutive(5))),
        ("last 50", builder().trip_on(rate().of_last(50))),
        ("last 100", builder().trip_on(rate().of_last(100))),
        ("last 10000", builder().trip_on(rate().of_last(10_000))),
        (
            "failures of last 100",
            builder().trip_on(Trip::failures(90).of_last(100)),
        ),
        (
            "last 100 + slow calls",
            builder()
                .trip_on(rate().of_last(100))
                .trip_on(Trip::slow_rate(0.5).of_last(100))
                .slow_call(Duration::from_secs(1)),
        ),
        (
            "consecutive + last 100",
            builder()
                .trip_on(Trip::consecutive(5))
                .trip_on(rate().of_last(100)),
        ),
        ("30 s", builder().trip_on(rate().within(WINDOW))),
        (
            "30 s from first call",
            builder().trip_on(rate().within(WINDOW).from_first_call()),
        ),
        (
            "average of 30 s",
            builder().trip_on(Trip::success_average(0.5).within(WINDOW)),
        ),
        (
            "30 s + slow calls",
            builder()
                .trip_on(rate().within(WINDOW))
                .trip_on(Trip::slow_rate(0.5).within(WINDOW))
                .slow_call(Duration::from_secs(1)),
        ),
    ];
    for (name, every) in [("clean", None), ("1 failure in 64", Some(64))] {
        let mut group = criterion.benchmark_group(format!("breaker closed, {name}"));
        for (rule, builder) in &rules {
            for threads in [1, 2] {
                let breaker = builder.clone().build().expect("the settings are sound");
                group.bench_function(BenchmarkId::new(*rule, threads), |bencher| {
                    bencher.iter_custom(|calls| {
                        on(threads, || {
                            for index in 0..calls {
                                let fails = every.is_some_and(|every| index % every == 0);
                                black_box(call(&breaker, fails)).expect("closed");
                            }
                        })
                    });
                });
            }
        }
    }
}

fn open(criterion: &mut Criterion) {
    let breaker = builder().build().expect("the defaults are sound");
    breaker.trip_for(HOUR);
    let mut group = criterion.benchmark_group("breaker open");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("rejected", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on(threads, || {
                    for _ in 0..calls {
                        let _ = black_box(call(&breaker, false));
                    }
                })
            });
        });
    }
}

/// Needs so many probes that the circuit stays half-open.
fn half_open(criterion: &mut Criterion) {
    let rule = HalfOpen::failure_rate(1.0).of(u32::MAX);
    let breaker = builder()
        .half_open(rule)
        .decide_early(false)
        .permitted_calls(16)
        .build();
    let breaker = breaker.expect("the settings are sound");
    breaker.half_open();
    let mut group = criterion.benchmark_group("breaker half-open");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("probe", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on(threads, || {
                    for _ in 0..calls {
                        black_box(call(&breaker, false)).expect("a probe is free");
                    }
                })
            });
        });
    }
}

fn builder() -> CircuitBreakerBuilder {
    CircuitBreaker::builder().clock(clock())
}

#[cfg(feature = "fast-clock")]
fn clock() -> ClockHandle {
    backstop::FastClock::new().into()
}

#[cfg(not(feature = "fast-clock"))]
fn clock() -> ClockHandle {
    backstop::TokioClock.into()
}

#[inline]
fn call(breaker: &CircuitBreaker, fails: bool) -> Result<(), Rejected> {
    let permit = breaker.try_acquire()?;
    if fails {
        permit.failure();
    } else {
        permit.success();
    }
    Ok(())
}

/// Returns how long `threads` threads take to do `work` concurrently.
fn on(threads: usize, work: impl Fn() + Sync) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
    start.elapsed()
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20);
    targets = benches
}
criterion_main!(all);
