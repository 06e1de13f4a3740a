//! The cost of a pick among 10 to 1000 nodes, on one thread and on two, beside a hand-written power of two
//! choices.
//!
//! `cargo bench --all-features --bench endpoints`. A pick is the layer's work before the operation starts; the
//! group "1000 nodes" adds the release and two readings of the clock.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backstop::endpoints::Endpoint;
use backstop::policy::{Guard, Guarded, Run};
use backstop::{ClockHandle, Context, Endpoints, Operation, Outcome, Policy, Rejected};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;

#[cfg(feature = "fast-clock")]
fn clock() -> ClockHandle {
    backstop::FastClock::default().into()
}

#[cfg(not(feature = "fast-clock"))]
fn clock() -> ClockHandle {
    backstop::BlockingClock.into()
}

fn endpoints(nodes: usize, choices: usize) -> Endpoints<usize> {
    let nodes = (0..nodes).map(|node| Endpoint::new(format!("node {node}"), node));
    let endpoints = Endpoints::builder().nodes(nodes).choices(choices);
    let endpoints = endpoints.clock(clock()).build().expect("valid");
    // All nodes have a latency.
    for _ in 0..20_000 {
        endpoints
            .try_acquire()
            .expect("all are available")
            .success();
    }
    endpoints
}

/// Runs `work` `times` times on each of two threads. Returns the longer time.
fn on_two_threads(times: u64, work: impl Fn() + Sync) -> Duration {
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                let start = Instant::now();
                (0..times).for_each(|_| work());
                start.elapsed()
            })
        });
        let times = threads.map(|thread| thread.join().expect("it does not panic"));
        times[0].max(times[1])
    })
}

/// An operation that does nothing. Its future is never polled.
#[derive(Clone, Copy)]
struct Nothing;

impl Operation for Nothing {
    type Value = ();
    type Error = ();
    type Attempt = Ready<Outcome<(), ()>>;
    type Listener = ();

    fn attempt(self, _: Context) -> Self::Attempt {
        ready(Outcome::of(Ok(())))
    }

    fn listener(self) {}
}

/// A layer that does nothing, with a permit as large as that of the endpoints.
struct AsLarge;

impl Guard for AsLarge {
    type Permit = [u64; 8];

    fn enter(&self, _: &mut Context) -> Result<[u64; 8], Rejected> {
        Ok(black_box([0; 8]))
    }

    fn exit<T, E>(&self, _: [u64; 8], _: &mut Outcome<T, E>) {}
}

fn picks(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    let clock = clock();
    let mut cx = Context::new();
    cx.now(&clock);
    for (nodes, choices) in [(10, 2), (100, 2), (1000, 2), (1000, 3)] {
        let endpoints = endpoints(nodes, choices);
        // The call stays in flight: a pick without a release. Another layer has read the clock.
        let pick = || std::mem::forget(black_box(Run::run(&endpoints, Nothing, black_box(cx))));
        let name = format!("{nodes} nodes, {choices} choices");
        group.bench_function(&name, |b| b.iter(pick));
        group.bench_function(format!("{name}, two threads"), |b| {
            b.iter_custom(|times| on_two_threads(times, pick));
        });
    }
    let guarded = Guarded(AsLarge);
    group.bench_function("a layer of this size without a pick", |b| {
        b.iter(|| drop(black_box(Run::run(&guarded, Nothing, black_box(cx)))));
    });
    group.bench_function("a reading of the clock", |b| b.iter(|| clock.now()));
    group.finish();
}

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("1000 nodes");
    let endpoints = endpoints(1000, 2);
    group.bench_function("acquire and release", |b| {
        b.iter(|| {
            endpoints
                .try_acquire()
                .expect("all are available")
                .success()
        });
    });
    group.bench_function("call of a ready operation", |b| {
        b.iter(|| {
            let call = endpoints.call(|node| async move { Ok::<_, ()>(*node) });
            call.now_or_never()
        });
    });
    group.bench_function("sticky call of a ready operation", |b| {
        let sticky = endpoints.sticky(&7);
        b.iter(|| {
            let call = sticky.call_with(endpoints.each(|node| async move { Ok::<_, ()>(*node) }));
            call.now_or_never()
        });
    });
    group.finish();
}

/// A hand-written power of two choices: no ejection, no updates, no clock.
fn by_hand(c: &mut Criterion) {
    struct Node {
        in_flight: AtomicU32,
        nanos: AtomicU64,
    }
    let nodes: Vec<Arc<Node>> = (0..1000)
        .map(|node| {
            Arc::new(Node {
                in_flight: AtomicU32::new(0),
                nanos: AtomicU64::new(1000 + node),
            })
        })
        .collect();
    let random = AtomicU64::new(1);
    let pick = || {
        let mut bits = random
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits ^= bits >> 32;
        let pair = [bits as usize % 1000, (bits >> 20) as usize % 1000].map(|at| &nodes[at]);
        let cost = |node: &Node| {
            node.nanos.load(Ordering::Relaxed)
                * u64::from(node.in_flight.load(Ordering::Relaxed) + 1)
        };
        let best = if cost(pair[0]) <= cost(pair[1]) {
            pair[0]
        } else {
            pair[1]
        };
        best.in_flight.fetch_add(1, Ordering::Relaxed);
        best.clone()
    };
    let mut group = c.benchmark_group("by hand");
    group.bench_function("1000 nodes", |b| b.iter(|| std::mem::forget(pick())));
    group.bench_function("1000 nodes, two threads", |b| {
        b.iter_custom(|times| on_two_threads(times, || std::mem::forget(pick())));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = picks, calls, by_hand
}
criterion_main!(benches);
