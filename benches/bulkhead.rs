//! Costs of a permit, of the wait queue, and of an update of each limit algorithm.
//!
//! `cargo bench --bench bulkhead`. The peers are in `benches/peers`.

use std::future::poll_fn;
use std::hint::black_box;
use std::task::Poll;
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Correlated, Gradient, Gradient2, Sample, Vegas, Windowed,
};
use backstop::{Bulkhead, Context, Instant, ManualClock, Policy};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join;

/// Pending once, with an immediate wake-up.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn permits(c: &mut Criterion) {
    let mut group = c.benchmark_group("bulkhead");
    let bulkhead = Bulkhead::new(25);
    group.bench_function("try_acquire and release", |b| {
        b.iter(|| drop(black_box(bulkhead.try_acquire())));
    });
    group.bench_function("try_acquire_owned and release", |b| {
        b.iter(|| drop(black_box(bulkhead.try_acquire_owned(Context::new()))));
    });
    let full = Bulkhead::new(1);
    let _permit = full.try_acquire();
    group.bench_function("try_acquire, full", |b| {
        b.iter(|| drop(black_box(full.try_acquire())));
    });
    let clock = ManualClock::new();
    group.bench_function("call of a ready operation", |b| {
        b.iter(|| clock.block_on(bulkhead.call(|| async { Ok::<_, ()>(1) })));
    });
    let one = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(8)
        .clock(clock.clone())
        .build()
        .expect("the settings are valid");
    // The second call waits while the first holds the only permit.
    group.bench_function("hand-over in the wait queue", |b| {
        b.iter(|| {
            let hold = || async {
                yield_once().await;
                Ok::<_, ()>(1)
            };
            clock.block_on(join(one.call(hold), one.call(hold)))
        });
    });
    group.bench_function("hand-over of a permit", |b| {
        b.iter(|| {
            let hold = || async {
                let _permit = one.acquire().await;
                yield_once().await;
            };
            clock.block_on(join(hold(), hold()))
        });
    });
    group.finish();
}

fn updates(c: &mut Criterion) {
    let limits: Vec<(&str, Box<dyn ConcurrencyLimit>)> = vec![
        ("aimd", Box::new(Aimd::builder().build().expect("defaults"))),
        (
            "vegas",
            Box::new(Vegas::builder().build().expect("defaults")),
        ),
        (
            "gradient",
            Box::new(Gradient::builder().build().expect("defaults")),
        ),
        (
            "gradient2",
            Box::new(Gradient2::builder().build().expect("defaults")),
        ),
        (
            "correlated",
            Box::new(Correlated::builder().build().expect("defaults")),
        ),
        (
            "windowed aimd",
            Box::new(
                Windowed::builder()
                    .around(Aimd::builder().build().expect("defaults"))
                    .expect("defaults"),
            ),
        ),
    ];
    let mut group = c.benchmark_group("limit update");
    for (name, mut limit) in limits {
        let mut now = Instant::ORIGIN;
        group.bench_function(name, |b| {
            b.iter(|| {
                now += Duration::from_micros(100);
                let latency = Duration::from_millis(10);
                limit.on_sample(&Sample::new(now, black_box(latency), 20));
                limit.limit()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, permits, updates);
criterion_main!(benches);
