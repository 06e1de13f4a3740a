//! The limiter as a policy: it rejects, waits, or waits up to a limit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::rate_limiter::Quota;
use backstop::{
    Backoff, CallOptions, Clock, Error, Event, ManualClock, Pipeline, Policy, Reason, Retry,
    Timeout,
};
use futures::future::join_all;

use super::{SECOND, builder, drain, limiter, ms, run};

async fn fine() -> Result<&'static str, ()> {
    Ok("done")
}

#[test]
fn it_rejects_at_once_unless_told_to_wait() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(2).burst(1));
    assert_eq!(run(&clock, limiter.call(fine)), Ok("done"));
    let error = run(&clock, limiter.call(fine)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::RateLimited));
    assert_eq!(error.retry_after(), Some(ms(500)));
    assert_eq!(clock.now().as_nanos(), 0);
}

#[test]
fn its_rejections_are_those_of_the_handle() {
    let clock = ManualClock::new();
    clock.advance(SECOND);
    let never = Quota::new(1, Duration::MAX);
    for quota in [Quota::per_second(3).burst(2), never, never.fixed_window()] {
        let limiter = limiter(&clock, quota);
        while limiter.try_acquire().is_ok() {}
        for cost in [1, 2, 3] {
            let expected = limiter.try_acquire_n(u64::from(cost)).unwrap_err();
            let policy = backstop::Pipeline::new(limiter.clone());
            let policy = policy.with(CallOptions::new().cost(cost));
            match run(&clock, policy.call(fine)) {
                Err(Error::Rejected(rejected)) => assert_eq!(rejected, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn it_waits_as_long_as_it_may() {
    let clock = ManualClock::new();
    for (longest, served) in [(ms(1000), 3), (ms(999), 2), (Duration::MAX, 5)] {
        let limiter = builder(&clock, Quota::per_second(2).burst(1)).max_wait(longest);
        let limiter = limiter.build().unwrap();
        let start = clock.now();
        let results = run(&clock, join_all((0..5).map(|_| limiter.call(fine))));
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            served
        );
        let waited = clock.now().saturating_duration_since(start);
        assert_eq!(waited, (served as u32 - 1) * ms(500));
        clock.advance(10 * SECOND);
    }
    // A leaky bucket is a queue.
    let leaky = limiter(&clock, Quota::per_second(2).leaky_bucket(3));
    let results = run(&clock, join_all((0..5).map(|_| leaky.call(fine))));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4);
}

#[test]
fn a_deadline_from_outside_is_respected_before_it_waits() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).max_wait(Duration::MAX);
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let timeout = Timeout::builder()
        .after(ms(900))
        .clock(clock.clone())
        .build();
    let stack = (timeout.unwrap(), limiter);
    let error = run(&clock, stack.call(fine)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineTooClose));
    assert_eq!(error.retry_after(), Some(SECOND));
    assert_eq!(clock.now().as_nanos(), 0);
}

#[test]
fn a_call_costs_what_it_says() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new(limiter(&clock, Quota::per_second(10)));
    let costly = pipeline.with(CallOptions::new().cost(7));
    assert!(run(&clock, costly.call(fine)).is_ok());
    let error = run(&clock, costly.call(fine)).unwrap_err();
    assert_eq!(error.retry_after(), Some(ms(400)));
    assert_eq!(pipeline.policies().peek().remaining, 3);
    let huge = pipeline.with(CallOptions::new().cost(11));
    let error = run(&clock, huge.call(fine)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CostExceedsLimit));
}

#[test]
fn the_operation_sees_the_time_after_the_wait() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).max_wait(Duration::MAX);
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let timeout = |limit| {
        Timeout::builder()
            .after(limit)
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let stack = (timeout(5 * SECOND), limiter, timeout(10 * SECOND));
    let left = run(
        &clock,
        stack.call_with(|attempt| async move { Ok::<_, ()>(attempt.remaining().unwrap()) }),
    );
    assert_eq!(left, Ok(4 * SECOND));
}

#[test]
fn a_retry_outside_waits_as_long_as_it_is_told() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let retry = Retry::builder()
        .backoff(Backoff::fixed(ms(1)))
        .clock(clock.clone())
        .build()
        .unwrap();
    let result = run(&clock, (retry, limiter).call(fine));
    assert_eq!(result, Ok("done"));
    assert!(clock.now().as_nanos() >= 1_000_000_000);
}

#[test]
fn shadow_mode_counts_and_admits() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let limiter = builder(&clock, Quota::per_second(1))
        .shadow(true)
        .max_wait(SECOND)
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    for _ in 0..3 {
        assert_eq!(run(&clock, limiter.call(fine)), Ok("done"));
    }
    assert!(limiter.try_acquire().is_ok());
    assert!(run(&clock, limiter.acquire()).is_ok());
    limiter.reserve(100).unwrap().commit(0);
    // The second call and `acquire` would have waited; the third would have waited too long.
    assert_eq!(limiter.snapshot().would_reject, 3);
    assert_eq!(clock.now().as_nanos(), 0);
    let line = "rate_limiter: would have rejected a call: rate limited";
    assert_eq!(heard.lock().unwrap()[0], line);
}

#[test]
fn shadow_mode_reports_what_a_limiter_that_waits_would_reject() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).leaky_bucket(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).sliding_log(),
    ];
    for quota in quotas {
        let rejected = |shadow: bool| {
            let clock = ManualClock::new();
            let limiter = builder(&clock, quota)
                .shadow(shadow)
                .max_wait(SECOND)
                .build()
                .unwrap();
            let mut calls = Vec::new();
            for round in 0..100 {
                for _ in 0..round % 5 {
                    let mut call = Box::pin(limiter.call(fine));
                    if poll(&mut call).is_pending() {
                        calls.push(call);
                    }
                }
                clock.advance(Duration::from_millis(100));
                calls.retain_mut(|call| poll(call).is_pending());
            }
            let snapshot = limiter.snapshot();
            snapshot.rejected + snapshot.would_reject
        };
        assert!(rejected(false) > 0);
        assert_eq!(rejected(true), rejected(false), "{quota}");
    }
}

fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> std::task::Poll<F::Output> {
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut task)
}

#[test]
fn rejections_are_reported_to_the_pipeline_and_to_the_limiters_own_observer() {
    let clock = ManualClock::new();
    let count = || {
        let seen = Arc::new(Mutex::new(0));
        let counter = seen.clone();
        let observer = move |event: &Event| {
            *counter.lock().unwrap() += u32::from(event.kind() == "rejected");
        };
        (seen, observer)
    };
    let ((own, own_observer), (outer, outer_observer)) = (count(), count());
    let limiter = builder(&clock, Quota::per_second(1)).observer(own_observer);
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let pipeline = Pipeline::new(limiter).observer(outer_observer);
    let error = run(&clock, pipeline.call(fine)).unwrap_err();
    assert!(matches!(error, Error::Rejected(_)));
    // The one that `drain` ended with was outside the pipeline.
    assert_eq!((*own.lock().unwrap(), *outer.lock().unwrap()), (2, 1));
}

#[test]
fn it_works_without_a_runtime() {
    let limiter = backstop::RateLimiter::builder()
        .quota(Quota::new(1, Duration::from_micros(100)).burst(1))
        .max_wait(Duration::MAX)
        .clock(backstop::BlockingClock)
        .build()
        .unwrap();
    for _ in 0..5 {
        assert_eq!(limiter.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
    }
}

#[test]
fn it_can_be_spawned_with_what_it_borrows() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).max_wait(SECOND);
    let limiter = limiter.build().unwrap();
    let text = String::from("borrowed");
    let call = send(limiter.call(|| async { Ok::<_, ()>(text.len()) }));
    assert_eq!(run(&clock, call), Ok(8));
    drop(send(limiter.acquire()));
}
