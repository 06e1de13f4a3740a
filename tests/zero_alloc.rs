//! Where nothing goes wrong nothing is allocated: each policy, and a stack, around an operation that
//! is ready at once and around one that is pending once.
//!
//! `allocation-counter` counts what the thread allocates. It counts the program's own global
//! allocator, which is why this test is a program of its own.
#![cfg(feature = "tokio")]

use std::cell::Cell;
use std::future::{Future, poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use backstop::bulkhead::limit;
use backstop::circuit_breaker::Trip;
use backstop::store::MemoryStore;
use backstop::{
    Bulkhead, CallOptions, CircuitBreaker, Classify, ClockHandle, Coalesce, Endpoints, Error,
    Event, Fallback, Hedge, Keyed, KeyedRateLimiter, LoadShedder, ManualClock, MaybeStale,
    Pipeline, Policy, Quota, RateLimiter, Report, Retry, RetryBudget, SharedRateLimiter, Stale,
    Standard, Throttle, Timeout, Verdict,
};

/// How many allocations polling a future to its end makes, and what it ends with.
fn allocations<T>(future: impl Future<Output = T>) -> (u64, T) {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    let mut output = None;
    let count = measure(|| {
        while output.is_none() {
            if let Poll::Ready(ready) = future.as_mut().poll(&mut cx) {
                output = Some(ready);
            }
        }
    });
    (count.count_total, output.expect("it is ready"))
}

/// An operation that is pending once.
async fn pending_once() -> Result<u64, ()> {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(7)
}

/// Every way to call a policy, around both operations.
macro_rules! assert_no_allocation {
    ($name:expr, $policy:expr $(,)?) => {{
        let (name, policy): (&str, _) = ($name, $policy);
        // The first call may fill a pool, or register something for the thread.
        let _ = allocations(policy.call(pending_once));

        let good = || ready(Ok(7));
        let reported = |(count, report): (u64, Report<u64, ()>)| (count, report.result);
        let ends = [
            allocations(policy.call(good)),
            allocations(policy.call_with(|_| good())),
            reported(allocations(policy.call_reported(good))),
            allocations(policy.call(pending_once)),
            allocations(policy.call_with(|_| pending_once())),
            reported(allocations(policy.call_reported(pending_once))),
        ];
        assert_eq!(ends, [(0, Ok(7)); 6], "{name}");
    }};
}

fn assert_no_allocation_on(clock: &ClockHandle) {
    let minute = Duration::from_secs(60);
    let timeout = Timeout::builder().after(minute).clock(clock.clone());
    let timeout = timeout.build().unwrap();
    let computed = Timeout::builder().after_with(move |_| minute);
    let computed = computed.clock(clock.clone()).build().unwrap();
    let retry = || Retry::builder().clock(clock.clone());
    let plain = retry().build().unwrap();
    let classify = || Classify::errors(|()| Verdict::transient());

    assert_no_allocation!("timeout", &timeout);
    let bulkhead = || Bulkhead::builder().clock(clock.clone());
    assert_no_allocation!("bulkhead", bulkhead().build().unwrap());
    assert_no_allocation!(
        "bulkhead with a queue",
        bulkhead().max_waiting(9).build().unwrap(),
    );
    let aimd = limit::Aimd::builder().build().unwrap();
    assert_no_allocation!(
        "adaptive bulkhead",
        bulkhead().adaptive(aimd).build().unwrap(),
    );
    let shedder = || LoadShedder::builder().clock(clock.clone());
    assert_no_allocation!("load shedder", shedder().build().unwrap());
    assert_no_allocation!(
        "bulkhead with a queue, load shedder",
        (
            bulkhead().max_waiting(9).build().unwrap(),
            shedder().build().unwrap(),
        ),
    );
    // All calls would be shed, from the first update on.
    let shedding = shedder().signal(1.0, || 1.0).shadow(true).max_shed(1.0);
    let shedding = shedding.update_interval(Duration::from_nanos(1));
    let shedding = shedding.build().unwrap();
    assert_no_allocation!("load shedder that would shed", &shedding);
    assert!(shedding.snapshot().shed_rate > 0.0);
    assert_no_allocation!("timeout, computed", &computed);
    assert_no_allocation!("retry", &plain);
    assert_no_allocation!(
        "retry with a longest time",
        retry().max_elapsed(minute).build().unwrap(),
    );
    for budget in [
        RetryBudget::percentage().clock(clock.clone()).build(),
        RetryBudget::tokens().build(),
        RetryBudget::grpc(10, 0.1).build(),
        RetryBudget::in_flight().build(),
    ] {
        let retry = retry().budget(budget.unwrap()).build().unwrap();
        assert_no_allocation!("retry with a budget", retry);
    }
    let breaker = || CircuitBreaker::builder().clock(clock.clone());
    let circuit = breaker().build().unwrap();
    assert_no_allocation!("circuit breaker", &circuit);
    for trip in [
        Trip::consecutive(5),
        Trip::failures(5).of_last(100),
        Trip::slow_rate(0.5).within(minute),
        Trip::success_average(0.5).of_last(100),
    ] {
        let breaker = breaker().trip_on(trip).slow_call(minute).ramp_up(minute);
        let breaker = breaker.build().unwrap();
        assert_no_allocation!("circuit breaker with a rule", &breaker);
        breaker.try_acquire().unwrap().failure();
        assert_no_allocation!("circuit breaker with a failure", &breaker);
        breaker.half_open();
        breaker.try_acquire().unwrap().success();
        breaker.disable();
        assert_no_allocation!("circuit breaker that is disabled", &breaker);
    }
    let hosts = Keyed::new({
        let circuit = circuit.clone();
        move |_: &u64| circuit.clone()
    });
    drop(hosts.get(&7));
    assert_no_allocation!("one key's circuit breaker", hosts.get(&7));

    let second = Quota::new(1000, Duration::from_secs(1));
    for quota in [
        second,
        // One by one, and none has to wait.
        Quota::new(1, Duration::from_nanos(1)).leaky_bucket(1000),
        second.fixed_window(),
        second.sliding_log(),
        second.sliding_counter(),
    ] {
        let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
        let limiter = limiter.build().unwrap();
        for _ in 0..70 {
            // A sliding log grows with what it remembers; until it doubles again it does not.
            limiter.try_acquire().unwrap();
        }
        assert_no_allocation!(&format!("{quota:?}"), limiter);
    }
    let keys = KeyedRateLimiter::builder().quota(second);
    let keys = keys.clock(clock.clone()).build().unwrap();
    assert_no_allocation!("one key's rate limiter", keys.get(&7_u64));
    let limiter = RateLimiter::builder().quota(second).clock(clock.clone());
    let limiter = limiter.build().unwrap();

    let endpoints = || {
        Endpoints::builder()
            .node("a", 1)
            .node("b", 2)
            .clock(clock.clone())
    };
    let nodes = endpoints().build().unwrap();
    assert_no_allocation!("endpoints", (&nodes,));
    assert_no_allocation!(
        "endpoints in turn",
        (endpoints().round_robin().build().unwrap(),)
    );
    assert_no_allocation!("the endpoint of a key", nodes.sticky(&7));
    let of_node = |node: backstop::endpoints::Node<i32>| ready(Ok::<_, ()>(*node));
    assert_eq!(allocations(nodes.call(of_node)).0, 0);
    #[cfg(feature = "chaos")]
    {
        let chaos = backstop::Chaos::builder().error(0.5, || ()).max_share(0.0);
        assert_no_allocation!("chaos", chaos.clock(clock.clone()).build().unwrap());
    }

    let throttle = || Throttle::builder().clock(clock.clone());
    let calm = throttle().build().unwrap();
    assert_no_allocation!("throttle", &calm);
    let throttling = throttle().shadow(true).build().unwrap();
    for _ in 0..100 {
        throttling.record(Verdict::failure());
    }
    assert_no_allocation!("throttle that would reject", throttling);
    assert_no_allocation!("classify errors", classify());
    let by = |result: Result<&u64, &Error<()>>| Verdict::default_for(result);
    assert_no_allocation!("classify", Classify::by(by));
    let hedge = || Hedge::builder().clock(clock.clone());
    let fixed = hedge().after(minute).build().unwrap();
    assert_no_allocation!("hedge", &fixed);
    let one_knob = hedge().max_extra_load(0.02).min_calls(1).min_delay(minute);
    let one_knob = one_knob.build().unwrap();
    assert_no_allocation!("hedge by latencies", &one_knob);
    assert!(one_knob.snapshot().delay.is_some());
    let budget = RetryBudget::in_flight().build().unwrap();
    assert_no_allocation!(
        "hedge with a budget",
        hedge().after(minute).budget(budget).build().unwrap()
    );
    assert_no_allocation!("fallback", Fallback::value(9_u64));
    assert_no_allocation!(
        "fallback by a function",
        Fallback::with(|_: &Error<()>| 9_u64)
    );
    let usual = || Standard::builder().clock(clock.clone());
    let usual_limits = usual().quota(second).build().unwrap();
    assert_no_allocation!("standard", &usual_limits);
    let other = usual_limits.config().max_attempts(9);
    usual_limits.reconfigure(other).unwrap();
    assert_no_allocation!("standard, reconfigured", &usual_limits);
    assert_no_allocation!(
        "standard, observed",
        usual().observer(|_: &Event| {}).build().unwrap()
    );
    assert_no_allocation!("some", Some(&timeout));
    assert_no_allocation!("none", None::<Timeout>);
    assert_no_allocation!("arc", Arc::new(timeout.clone()));

    let stack = (
        &timeout,
        &plain,
        &one_knob,
        &calm,
        &circuit,
        &nodes,
        &limiter,
        Bulkhead::builder().clock(clock.clone()).build().unwrap(),
        Some(&timeout),
        classify(),
    );
    assert_no_allocation!("stack", &stack);
    let pipeline = Pipeline::new(stack).with_name("stack");
    assert_no_allocation!("pipeline", &pipeline);
    let options = CallOptions::new().idempotent(false).deadline(minute);
    assert_no_allocation!("pipeline with options", pipeline.with(options));
    assert_no_allocation!("observed", pipeline.clone().observer(|_: &Event| {}));
}

#[test]
fn the_good_path_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    assert_no_allocation_on(&backstop::TokioClock.into());
    #[cfg(feature = "fast-clock")]
    assert_no_allocation_on(&backstop::FastClock::new().into());
}

#[test]
fn the_counter_counts() {
    let stack = (None::<Timeout>, None::<Retry>);
    let boxing = || ready(Ok::<_, ()>(*std::hint::black_box(Box::new(7))));
    assert_eq!(allocations(stack.call(boxing)), (1, Ok(7)));
}

#[test]
fn a_stale_value_is_remembered_and_served_without_an_allocation() {
    let clock = backstop::ManualClock::new();
    let stale = Stale::<u64>::builder().max_age(Duration::MAX).clock(clock);
    let stale = stale.build().unwrap();
    let value = Arc::new(7);
    let good = || ready(Ok::<_, ()>(MaybeStale::fresh(value.clone())));
    let (count, result) = allocations(stale.call(good));
    assert_eq!((count, *result.unwrap()), (0, 7));
    let (count, result) = allocations(stale.call(|| ready(Err(()))));
    assert_eq!((count, *result.unwrap()), (0, 7));
}

#[test]
fn keys_without_a_flight_occupy_no_memory() {
    let coalesce = Coalesce::<u64, u64, ()>::builder().clock(backstop::ManualClock::new());
    let coalesce = coalesce.build().unwrap();
    let after = |keys: std::ops::Range<u64>| {
        measure(|| {
            for key in keys {
                let mut cx = Context::from_waker(Waker::noop());
                let (one, load) = (coalesce.get(&key), || pending_once());
                let (mut leader, mut waiting) = (pin!(one.call(load)), pin!(one.call(load)));
                assert!(leader.as_mut().poll(&mut cx).is_pending());
                assert!(waiting.as_mut().poll(&mut cx).is_pending());
                assert!(leader.as_mut().poll(&mut cx).is_ready());
                assert!(waiting.as_mut().poll(&mut cx).is_ready());
            }
        })
        .count_current
    };
    // Each of the parts may keep room for the next key.
    assert!(after(0..1000) <= 16);
    assert_eq!(after(1000..10_000), 0);
}

#[test]
fn calls_that_wait_for_one_execution_cost_it_one_allocation_at_its_end() {
    let coalesce = Coalesce::<u64, u64, ()>::builder().clock(backstop::ManualClock::new());
    let coalesce = coalesce.build().unwrap();
    let one = coalesce.get(&1);
    let done = Cell::new(false);
    let load = || {
        poll_fn(|_| match done.get() {
            true => Poll::Ready(Ok(7)),
            false => Poll::Pending,
        })
    };
    let mut cx = Context::from_waker(Waker::noop());
    let mut calls: Vec<_> = (0..101).map(|_| Box::pin(one.call(load))).collect();
    let mut poll = |from: usize, to: usize| {
        let count = measure(|| {
            for call in &mut calls[from..to] {
                let _ = call.as_mut().poll(&mut cx);
            }
        });
        count.count_total
    };
    poll(0, 1);
    assert!(poll(1, 12) <= 1, "the first eleven");
    assert!(poll(12, 101) <= 16, "a hundred");
    done.set(true);
    assert_eq!(poll(0, 101), 1);
}

/// A call inside a lease, and one that is rejected while the limit is known to be used up.
#[test]
fn a_shared_limiter_allocates_nothing_inside_a_lease() {
    let clock = ManualClock::new();
    let limiter = SharedRateLimiter::builder()
        .store(MemoryStore::new(clock.clone()))
        .key("key")
        .quota(Quota::per_second(1000))
        .clock(clock.clone())
        .build()
        .unwrap();
    // Until the lease has grown.
    while limiter.snapshot().held < 100 {
        let (_, taken) = allocations(limiter.try_acquire());
        taken.unwrap();
    }
    let (count, result) = allocations(limiter.call(|| ready(Ok::<_, ()>(7))));
    assert_eq!((count, result), (0, Ok(7)));
    let (count, taken) = allocations(limiter.try_acquire());
    assert_eq!((count, taken), (0, Ok(())));
    while allocations(limiter.try_acquire()).1.is_ok() {}
    let (count, taken) = allocations(limiter.try_acquire());
    assert!(count == 0 && taken.is_err(), "{count} allocations");
}
