//! Gauges that a handle has no more become 0.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use backstop::metrics::{Gauges, Metrics, Reading};
use backstop::{ManualClock, Quota, Standard};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::recorder::TestRecorder;

#[test]
fn a_gauge_that_no_handle_has_any_more_is_zero() {
    let (recorder, metrics) = crate::metrics();
    let clock = ManualClock::new();
    let standard = Standard::builder().name("s").quota(Quota::per_second(9));
    let standard = standard.clock(clock).build().unwrap();
    standard.breaker().unwrap().trip();
    metrics.watch(standard.clone());
    metrics.collect();
    let open = || recorder.gauge("backstop_circuit_state", "policy=s,state=open");
    let tokens = || recorder.gauge("backstop_tokens", "policy=s");
    assert_eq!((open(), tokens()), (1.0, 9.0));

    let config = standard.config();
    standard
        .reconfigure(config.clone().without_breaker())
        .unwrap();
    metrics.collect();
    assert_eq!((open(), tokens()), (0.0, 9.0));
    standard.reconfigure(config).unwrap();
    metrics.collect();
    assert_eq!((open(), tokens()), (1.0, 9.0));
}

/// A handle with one gauge, which is 7 while it is on.
#[derive(Clone)]
struct Switched(&'static str, Arc<AtomicBool>);

impl Switched {
    fn new(name: &'static str) -> Self {
        Self(name, Arc::new(AtomicBool::new(true)))
    }

    fn turn_off(&self) {
        self.1.store(false, Ordering::Relaxed);
    }
}

impl Gauges for Switched {
    fn readings(&self) -> Vec<Reading> {
        let reading = Reading {
            metric: "backstop_tokens",
            policy: self.0,
            label: None,
            value: 7.0,
        };
        let is_on = self.1.load(Ordering::Relaxed);
        is_on.then_some(reading).into_iter().collect()
    }
}

type Code = Box<dyn FnOnce() + Send>;

/// A recorder that runs a piece of code when a gauge of this policy is registered.
#[derive(Clone, Default)]
struct Interrupted(TestRecorder, Arc<Mutex<Option<(&'static str, Code)>>>);

impl Interrupted {
    fn at(&self, policy: &'static str, code: impl FnOnce() + Send + 'static) {
        *self.1.lock().unwrap() = Some((policy, Box::new(code)));
    }

    fn tokens(&self, policy: &str) -> f64 {
        let label = format!("policy={policy}");
        self.0.gauge("backstop_tokens", &label)
    }
}

impl Recorder for Interrupted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let mut interrupt = self.1.lock().unwrap();
        let is_here = |(policy, _): &mut (&str, Code)| key.labels().any(|it| it.value() == *policy);
        let code = interrupt.take_if(|interrupt| is_here(interrupt));
        drop(interrupt);
        if let Some((_, code)) = code {
            code();
        }
        self.0.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(key, metadata)
    }
}

fn interrupted() -> (Interrupted, Metrics) {
    let recorder = Interrupted::default();
    (recorder.clone(), Metrics::with_recorder(recorder))
}

#[test]
fn a_gauge_that_goes_during_a_slow_collection_is_zero_after_the_next_one() {
    let (recorder, metrics) = interrupted();
    let handle = Switched::new("s");
    metrics.watch(Switched::new("before"));
    metrics.watch(handle.clone());
    // Another thread collects after this collection has read the handle, and before it records the value.
    let (other, switched) = (metrics.clone(), handle.clone());
    recorder.at("before", move || {
        switched.turn_off();
        other.collect();
    });
    metrics.collect();
    metrics.collect();
    assert_eq!(recorder.tokens("s"), 0.0);
    assert_eq!(recorder.tokens("before"), 7.0);
}

#[test]
fn a_gauge_that_goes_is_zero_although_another_handle_always_panics() {
    struct Panicking;
    impl Gauges for Panicking {
        fn readings(&self) -> Vec<Reading> {
            panic!("panic of the handle")
        }
    }
    let (recorder, metrics) = interrupted();
    let handle = Switched::new("s");
    metrics.watch(Panicking);
    metrics.watch(handle.clone());
    let collect = || catch_unwind(AssertUnwindSafe(|| metrics.collect()));
    assert!(collect().is_err());
    assert_eq!(recorder.tokens("s"), 7.0);
    handle.turn_off();
    assert!(collect().is_err());
    assert_eq!(recorder.tokens("s"), 0.0);
}

#[test]
fn a_recorder_that_panics_once_leaves_no_gauge_of_a_handle_that_is_gone() {
    let (recorder, metrics) = interrupted();
    let handles = ["a", "b", "c"].map(Switched::new);
    for handle in &handles {
        metrics.watch(handle.clone());
    }
    metrics.collect();
    for handle in &handles {
        handle.turn_off();
    }
    recorder.at("b", || panic!("panic of the recorder"));
    assert!(catch_unwind(AssertUnwindSafe(|| metrics.collect())).is_err());
    let all = || ["a", "b", "c"].map(|policy| recorder.tokens(policy));
    assert_eq!(all(), [0.0, 7.0, 0.0]);
    metrics.collect();
    assert_eq!(all(), [0.0; 3]);
}
