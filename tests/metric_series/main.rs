//! Series of the crate `metrics`: their names, labels, values, and number.
#![cfg(feature = "metrics")]

mod broken;
mod gone;
mod grafana;
mod recorder;

use std::future::pending;
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::metrics::{Gauges, Kind, Metrics, Reading, TABLE};
use backstop::policy::Classify;
use backstop::store::{Fault, MemoryStore};
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, CircuitVotes, ErrorClass, Health, Hedge, Jitter, Keyed,
    KeyedRateLimiter, ManualClock, Pipeline, Policy, Quota, RateLimiter, Retry, RetryBudget,
    SharedBulkhead, SharedRateLimiter, Standard, Timeout, Verdict,
};

use crate::recorder::TestRecorder;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn metrics() -> (TestRecorder, Metrics) {
    let recorder = TestRecorder::default();
    (recorder.clone(), Metrics::with_recorder(recorder))
}

fn retry(clock: &ManualClock) -> Retry {
    Retry::builder()
        .backoff(Backoff::fixed(ms(100)).jitter(Jitter::None))
        .clock(clock.clone())
        .build()
        .unwrap()
}

#[test]
fn a_call_and_its_attempts_are_counted_under_the_names_of_the_table() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let stack = (
        retry(&clock),
        metrics.attempts("github").clock(clock.clone()),
        Classify::errors(|error: &&str| match *error {
            "busy" => Verdict::throttled(None),
            // As for a 429, which says nothing about the dependency.
            "quota" => Verdict::throttled(None).with_health(Health::Neutral),
            "gone" => Verdict::permanent(),
            _ => Verdict::transient(),
        }),
    );
    let pipeline = Pipeline::new(stack)
        .with_name("github")
        .observer(metrics.clone());
    let answers = std::cell::RefCell::new(vec!["gone", "quota", "down", "busy", "down", "down"]);
    for _ in 0..2 {
        let call = pipeline.call(|| async {
            clock.sleep(ms(10)).await;
            Err::<(), _>(answers.borrow_mut().pop().unwrap())
        });
        assert!(clock.block_on(call).is_err());
    }

    let of = |name, labels: &str| recorder.counter(name, labels);
    let github = "policy=github,pipeline=github";
    assert_eq!(
        of("backstop_calls_total", &format!("{github},outcome=error")),
        2
    );
    let attempts = |kind, verdict| {
        let labels = format!("policy=github,kind={kind},verdict={verdict}");
        of("backstop_attempts_total", &labels)
    };
    assert_eq!(attempts("first", "transient"), 2);
    assert_eq!(attempts("retry", "transient"), 1);
    assert_eq!(attempts("retry", "throttled"), 2);
    assert_eq!(attempts("retry", "permanent"), 1);
    let stops = |stop| {
        let labels = format!("policy=retry,pipeline=github,stop={stop}");
        of("backstop_retry_stops_total", &labels)
    };
    assert_eq!((stops("max_attempts"), stops("not_retryable")), (1, 1));
    // The waits between attempts are part of the call only.
    let seconds = recorder.histogram("backstop_attempt_seconds", "policy=github");
    assert_eq!(seconds, [0.01; 6]);
    let calls = recorder.histogram("backstop_call_seconds", github);
    assert_eq!((calls.len(), calls[0]), (2, 0.23));
    recorder.check_against_the_table();
}

#[test]
fn a_cut_attempt_is_cancelled_and_a_rejection_is_not_an_attempt() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let timeout = Timeout::builder().after(ms(50)).clock(clock.clone());
    let empty = RateLimiter::builder().quota(Quota::per_minute(1).initial(1));
    let stack = (
        timeout.build().unwrap(),
        metrics.attempts("a").clock(clock.clone()),
        empty.clock(clock.clone()).build().unwrap(),
    );
    let pipeline = Pipeline::new(stack)
        .with_name("a")
        .observer(metrics.clone());
    let call = pipeline.call(pending::<Result<(), ()>>);
    assert!(clock.block_on(call).unwrap_err().is_timeout());
    let call = pipeline.call(|| async { Ok::<_, ()>(()) });
    assert!(clock.block_on(call).unwrap_err().is_rejected());

    let cancelled = "policy=a,kind=first,verdict=cancelled";
    assert_eq!(recorder.counter("backstop_attempts_total", cancelled), 1);
    assert_eq!(recorder.sum("backstop_attempts_total"), 1);
    let seconds = recorder.histogram("backstop_attempt_seconds", "policy=a");
    assert_eq!(seconds, [0.05]);
    let rejected = "policy=rate_limiter,pipeline=a,reason=rate_limited,shadow=false";
    assert_eq!(recorder.counter("backstop_rejections_total", rejected), 1);
    let outcome = |outcome| {
        let labels = format!("policy=a,pipeline=a,outcome={outcome}");
        recorder.counter("backstop_calls_total", &labels)
    };
    assert_eq!((outcome("timed_out"), outcome("rejected")), (1, 1));
    recorder.check_against_the_table();
}

#[test]
fn shadow_mode_has_a_label_of_its_own() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(1))
        .name("api")
        .shadow(true)
        .observer(metrics)
        .clock(clock)
        .build()
        .unwrap();
    for _ in 0..3 {
        limiter.try_acquire().unwrap();
    }
    let labels = "policy=api,reason=rate_limited,shadow=true";
    assert_eq!(recorder.counter("backstop_rejections_total", labels), 2);
    recorder.check_against_the_table();
}

#[test]
fn hedges_transitions_waits_and_other_events_are_counted() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .observer(metrics.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let failed = clock.block_on(breaker.call(|| async { Err::<(), _>(()) }));
    assert!(failed.is_err());
    let labels = "policy=circuit_breaker,from=closed,to=open,cause=consecutive_failures";
    assert_eq!(
        recorder.counter("backstop_circuit_transitions_total", labels),
        1
    );

    let hedge = Hedge::builder()
        .after(ms(10))
        .max_extra_load(1.0)
        .clock(clock.clone())
        .build()
        .unwrap();
    let pipeline = Pipeline::new((hedge, metrics.attempts("h").clock(clock.clone())))
        .with_name("h")
        .observer(metrics.clone());
    let call = pipeline.call_with(|attempt| {
        let clock = &clock;
        async move {
            if !attempt.is_hedge() {
                pending::<()>().await;
            }
            clock.sleep(ms(5)).await;
            Ok::<_, ()>(())
        }
    });
    assert_eq!(clock.block_on(call), Ok(()));
    let won = "policy=hedge,pipeline=h,result=won";
    assert_eq!(recorder.counter("backstop_hedges_total", won), 1);
    let launched = "policy=hedge,pipeline=h,kind=hedge_launched";
    assert_eq!(recorder.counter("backstop_events_total", launched), 1);
    let attempts = |kind, verdict| {
        let labels = format!("policy=h,kind={kind},verdict={verdict}");
        recorder.counter("backstop_attempts_total", &labels)
    };
    assert_eq!(attempts("hedge", "success"), 1);
    assert_eq!(attempts("first", "cancelled"), 1);

    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(10).burst(1))
        .max_wait(ms(1000))
        .observer(metrics)
        .clock(clock.clone())
        .build()
        .unwrap();
    for _ in 0..2 {
        clock.block_on(limiter.acquire()).unwrap();
    }
    let waits = recorder.histogram("backstop_queue_seconds", "policy=rate_limiter");
    assert_eq!(waits, [0.1]);
    recorder.check_against_the_table();
}

#[test]
fn an_observer_shared_by_a_handle_and_its_pipeline_counts_once() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(1))
        .observer(metrics.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let pipeline = Pipeline::new(limiter).observer(metrics.clone());
    for _ in 0..2 {
        let _ = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(()) }));
    }
    assert_eq!(recorder.sum("backstop_rejections_total"), 1);
}

#[test]
fn gauges_are_written_when_they_are_collected() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder().name("b").clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(7)
        .name("k")
        .clock(clock.clone())
        .build()
        .unwrap();
    let budget = RetryBudget::tokens()
        .capacity(100)
        .cost(ErrorClass::Transient, 5)
        .build()
        .unwrap();
    metrics.watch(breaker.clone());
    metrics.watch(bulkhead.clone());
    metrics.watch(budget.clone());
    let standard = Standard::builder().name("s").quota(Quota::per_second(9));
    metrics.watch(standard.clock(clock.clone()).build().unwrap());

    let _permit = bulkhead.try_acquire().unwrap();
    let mut call = budget.begin();
    let retry = call.withdraw(ErrorClass::Transient);
    assert!(retry.is_some());
    assert_eq!(recorder.gauges(), []);
    metrics.collect();
    let state =
        |state| recorder.gauge("backstop_circuit_state", &format!("policy=b,state={state}"));
    assert_eq!((state("closed"), state("open")), (1.0, 0.0));
    assert_eq!(recorder.gauge("backstop_in_flight", "policy=k"), 1.0);
    assert_eq!(recorder.gauge("backstop_limit", "policy=k"), 7.0);
    assert_eq!(recorder.gauge("backstop_queue_depth", "policy=k"), 0.0);
    let ratio = recorder.gauge("backstop_budget_ratio", "policy=retry_budget");
    assert_eq!(ratio, 0.95);
    assert_eq!(recorder.gauge("backstop_tokens", "policy=s"), 9.0);
    assert_eq!(recorder.gauge("backstop_budget_ratio", "policy=s"), 1.0);
    assert_eq!(
        recorder.gauge("backstop_circuit_state", "policy=s,state=closed"),
        1.0
    );

    let _isolation = breaker.isolate();
    metrics.collect();
    assert_eq!((state("closed"), state("isolated")), (0.0, 1.0));
    recorder.check_against_the_table();
}

#[test]
fn a_handle_that_panics_costs_no_other_its_gauges() {
    struct Panicking;
    impl Gauges for Panicking {
        fn readings(&self) -> Vec<Reading> {
            panic!("no reading")
        }
    }
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let named = |name| {
        let bulkhead = Bulkhead::builder().max_concurrent(7).name(name);
        bulkhead.clock(clock.clone()).build().unwrap()
    };
    metrics.watch(named("before"));
    metrics.watch(Panicking);
    metrics.watch(named("after"));
    let collect = std::panic::AssertUnwindSafe(|| metrics.collect());
    std::panic::catch_unwind(collect).unwrap_err();
    for name in ["before", "after"] {
        let limit = recorder.gauge("backstop_limit", &format!("policy={name}"));
        assert_eq!(limit, 7.0, "{name}");
    }
}

#[test]
fn shared_limits_report_their_store_and_their_trips() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limiter = SharedRateLimiter::builder()
        .name("fleet")
        .store(store.clone())
        .key("fleet")
        .quota(Quota::per_second(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let bulkhead = SharedBulkhead::builder()
        .name("jobs")
        .store(store.clone())
        .key("jobs")
        .max_concurrent(8)
        .clock(clock.clone())
        .build()
        .unwrap();
    let votes = CircuitVotes::builder()
        .store(store.clone())
        .key("votes")
        .breaker(CircuitBreaker::builder().name("b").build().unwrap())
        .clock(clock.clone())
        .build()
        .unwrap();
    metrics.watch(limiter.clone());
    metrics.watch(bulkhead.clone());
    metrics.watch(votes);
    let gauge = |name, policy: &str| recorder.gauge(name, &format!("policy={policy}"));
    let trips = |policy: &str| {
        let labels = format!("policy={policy}");
        recorder.counter("backstop_lease_trips_total", &labels)
    };

    clock.block_on(limiter.acquire()).unwrap();
    let permit = clock.block_on(bulkhead.acquire()).unwrap();
    metrics.collect();
    for policy in ["fleet", "jobs", "b"] {
        assert_eq!(gauge("backstop_store_up", policy), 1.0);
    }
    assert_eq!(trips("fleet"), limiter.snapshot().trips);
    assert_eq!(trips("jobs"), bulkhead.snapshot().trips);
    assert!(trips("fleet") > 0 && trips("jobs") > 0);
    assert_eq!(gauge("backstop_in_flight", "jobs"), 1.0);
    assert_eq!(gauge("backstop_limit", "jobs"), 8.0);
    assert_eq!(gauge("backstop_limit", "fleet"), 100.0);
    let held = limiter.snapshot().held as f64;
    assert_eq!(gauge("backstop_tokens", "fleet"), held);
    drop(permit);

    store.set_fault(Some(Fault::Fail));
    let before = trips("fleet");
    for _ in 0..200 {
        let _ = clock.block_on(limiter.acquire());
    }
    metrics.collect();
    assert_eq!(gauge("backstop_store_up", "fleet"), 0.0);
    assert!(trips("fleet") > before, "a total grows");
    recorder.check_against_the_table();
}

/// Keys before the series are counted.
const WARM: u64 = 15_000;

/// `BACKSTOP_KEYS=10000000` runs the test with as many keys.
fn keys() -> u64 {
    let keys = std::env::var("BACKSTOP_KEYS").ok();
    keys.map_or(50_000, |keys| keys.parse().expect("a number"))
}

#[test]
fn the_number_of_series_does_not_depend_on_the_number_of_keys() {
    let (recorder, metrics) = metrics();
    let clock = ManualClock::new();
    let limiter = KeyedRateLimiter::builder()
        .quota(Quota::per_minute(1))
        .max_keys(1000)
        .observer(metrics.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .observer(metrics.clone())
        .clock(clock.clone());
    let breakers = Keyed::builder(move |_: &u64| breaker.clone().build().unwrap())
        .max_keys(1000)
        .build()
        .unwrap();
    metrics.watch(limiter.clone());
    metrics.watch(breakers.clone());
    let pipeline = Pipeline::new(metrics.attempts("p").clock(clock.clone()))
        .with_name("p")
        .observer(metrics.clone());
    let call = |key: u64| {
        for _ in 0..2 {
            let _ = limiter.try_acquire(&key);
        }
        let breaker = breakers.get(&key);
        let failing = pipeline.around((&breaker,));
        let result = clock.block_on(failing.call(|| async { Err::<(), _>("down") }));
        assert!(result.is_err());
        clock.advance(ms(1));
    };
    // Long enough for the shared breaker of keys without room to open, and to be probed.
    (0..WARM).for_each(call);
    metrics.collect();
    let before = recorder.series();
    (WARM..keys()).for_each(call);
    metrics.collect();
    assert_eq!(recorder.series(), before);
    assert_eq!(recorder.sum("backstop_calls_total"), keys());
}

#[test]
fn every_pattern_with_gauges_has_them_in_the_table() {
    let clock = ManualClock::new();
    let handles: [Box<dyn Gauges>; 3] = [
        Box::new(retry_budget(&clock)),
        Box::new(
            backstop::LoadShedder::builder()
                .clock(clock.clone())
                .build()
                .unwrap(),
        ),
        Box::new(
            backstop::Throttle::builder()
                .clock(clock.clone())
                .build()
                .unwrap(),
        ),
    ];
    for reading in handles.iter().flat_map(|handle| handle.readings()) {
        let metric = TABLE.iter().find(|metric| metric.name == reading.metric);
        assert_eq!(metric.unwrap().kind, Kind::Gauge, "{}", reading.metric);
    }
}

fn retry_budget(clock: &ManualClock) -> RetryBudget {
    let budget = RetryBudget::percentage().clock(clock.clone());
    budget.build().unwrap()
}

#[test]
fn the_ratio_of_a_budget_is_its_free_part() {
    let clock = ManualClock::new();
    let budget = retry_budget(&clock);
    let ratio = || budget.snapshot().ratio;
    assert_eq!((budget.snapshot().available, ratio()), (100.0, 1.0));
    let mut call = budget.begin();
    for _ in 0..25 {
        assert!(call.withdraw(ErrorClass::Transient).is_some());
    }
    assert_eq!((budget.snapshot().available, ratio()), (75.0, 0.75));
    while call.withdraw(ErrorClass::Transient).is_some() {}
    assert_eq!(ratio(), 0.0);
    clock.advance(Duration::from_secs(11));
    assert_eq!(ratio(), 1.0);
}
