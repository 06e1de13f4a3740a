//! A recorder that panics from some call on.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::metrics::Metrics;
use backstop::{Bulkhead, Hedge, ManualClock, Pipeline, Policy, Quota, RateLimiter, Retry};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

thread_local! {
    /// Calls of the recorder until the first one that panics, as all later ones do.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

fn tick() {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    assert_ne!(left, 0, "panic of the recorder");
}

struct Broken;

impl CounterFn for Broken {
    fn increment(&self, _: u64) {
        tick();
    }

    fn absolute(&self, _: u64) {
        tick();
    }
}

impl HistogramFn for Broken {
    fn record(&self, _: f64) {
        tick();
    }
}

impl Recorder for Broken {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        tick();
        Counter::from_arc(Arc::new(Self))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        tick();
        Histogram::from_arc(Arc::new(Self))
    }
}

/// A second panic while the first one unwinds would abort the process.
#[test]
fn a_recorder_that_panics_from_some_call_on_costs_no_permit() {
    let ms = Duration::from_millis;
    let run = |panics_at: u64, polls: u32, operation_panics: bool| {
        let clock = ManualClock::new();
        let bulkhead = Bulkhead::builder().max_concurrent(9).clock(clock.clone());
        let bulkhead = bulkhead.build().unwrap();
        let limiter = RateLimiter::builder().quota(Quota::per_hour(4));
        let limiter = limiter.clock(clock.clone()).build().unwrap();
        let hedge = Hedge::builder().after(ms(2)).clock(clock.clone());
        let retry = Retry::builder().clock(clock.clone()).seed(1);
        let metrics = Metrics::with_recorder(Broken);
        let stack = Pipeline::new((
            retry.build().unwrap(),
            hedge.build().unwrap(),
            &bulkhead,
            &limiter,
            metrics.attempts("a").clock(clock.clone()),
        ));
        let stack = stack.observer(metrics);
        LEFT.set(panics_at);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut call = Box::pin(stack.call(|| async {
                clock.sleep(ms(5)).await;
                assert!(!operation_panics, "panic of the operation");
                Err::<(), _>(())
            }));
            for _ in 0..polls {
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if polled.is_ready() {
                    return;
                }
                clock.advance(ms(1));
            }
        }));
        let left = LEFT.replace(u64::MAX);
        let seen = (bulkhead.snapshot().in_flight, clock.sleepers());
        assert_eq!(seen, (0, 0), "call {panics_at}, {polls} polls");
        left
    };
    for (polls, operation_panics) in [0, 1, 3, 7, 150]
        .into_iter()
        .flat_map(|n| [(n, false), (n, true)])
    {
        for call in 0.. {
            if run(call, polls, operation_panics) > 0 {
                break;
            }
            assert!(call < 1000, "calls without an end");
        }
    }
}
