//! Policies whose type is erased.

use std::sync::atomic::{AtomicU32, Ordering};

use backstop::policy::{Boxable, Describe, LayerKind};
use backstop::{Backoff, BoxPolicy, Clock, Error, ManualClock, Reason, Retry};

use super::Fault::Down;
use super::{Fault, ms, retry, timeout};

fn boxed(policy: impl Boxable<u32, Fault> + 'static) -> BoxPolicy<u32, Fault> {
    BoxPolicy::new(policy)
}

fn stack(clock: &ManualClock) -> BoxPolicy<u32, Fault> {
    boxed((timeout(clock, 1000), retry(clock)))
}

#[test]
fn a_reported_call_has_attempts_time_and_the_last_error() {
    let clock = ManualClock::new();
    let attempts = AtomicU32::new(0);
    let report = clock.block_on(stack(&clock).call_reported(|| async {
        match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Down),
            n => Ok(n),
        }
    }));
    assert_eq!(report.result, Ok(1));
    assert_eq!((report.attempts, report.elapsed), (2, ms(100)));
    assert_eq!(report.last_error, Some(Down));
}

#[test]
fn an_operation_that_can_run_once_is_not_repeated() {
    let clock = ManualClock::new();
    let policy = stack(&clock);
    let body = String::from("abc");
    let sends = policy.call_once(|| async move { Ok(body.len() as u32) });
    assert_eq!(clock.block_on(sends), Ok(3));

    let body = String::from("abc");
    let fails = policy.call_once(|| async move {
        drop(body);
        Err(Down)
    });
    assert_eq!(clock.block_on(fails), Err(Error::Operation(Down)));
    assert_eq!(
        clock.now(),
        backstop::Instant::ORIGIN,
        "it waited for a retry"
    );
}

#[test]
fn an_operation_that_can_run_once_runs_after_a_rejection_was_waited_out() {
    let clock = ManualClock::new();
    let limiter = backstop::RateLimiter::builder().quota(backstop::Quota::per_second(1));
    let limiter = limiter.clock(clock.clone()).build().unwrap();
    limiter.try_acquire().unwrap();
    let policy = boxed((retry(&clock), limiter));
    assert_eq!(clock.block_on(policy.call_once(|| async { Ok(7) })), Ok(7));
    assert_eq!(clock.now(), backstop::Instant::ORIGIN + ms(1000));
}

#[test]
fn a_blocking_call_runs_under_the_same_policy() {
    let clock = ManualClock::new();
    let policy = boxed(
        Retry::builder()
            .backoff(Backoff::NONE)
            .clock(clock)
            .build()
            .unwrap(),
    );
    let attempts = AtomicU32::new(0);
    let result = policy.call_blocking(|| match attempts.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Down),
        n => Ok(n),
    });
    assert_eq!(result, Ok(1));
}

#[test]
fn an_isolated_circuit_rejects_before_an_operation_that_runs_once() {
    let clock = ManualClock::new();
    let breaker = backstop::CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let _isolation = breaker.isolate();
    let result = clock.block_on(boxed(breaker).call_once(|| async { Ok(1) }));
    assert_eq!(result.unwrap_err().reason(), Some(Reason::Isolated));
}

#[test]
fn an_erased_policy_describes_its_layers() {
    let clock = ManualClock::new();
    let mut layers = Vec::new();
    stack(&clock).describe(&mut layers);
    let kinds: Vec<_> = layers
        .iter()
        .map(|layer: &LayerKind| layer.as_str())
        .collect();
    assert_eq!(kinds, ["timeout", "retry"]);
    assert!(stack(&clock).clock().is_some());
    let text = format!("{:?}", stack(&clock));
    assert!(text.contains("Retry"), "{text}");
}
