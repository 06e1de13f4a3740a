//! Rejections by layers inside a retry.

use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::policy::{Guard, Guarded};
use backstop::{
    Backoff, CallOptions, CircuitBreaker, Classify, Context, Error, Jitter, ManualClock, Outcome,
    Pipeline, Policy, Reason, Rejected, Retry, RetryBudget, Verdict,
};

use super::{doubling, elapsed, ms, s, total};

/// Rejects every call.
struct Reject(Rejected);

impl Guard for Reject {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        Err(self.0)
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

pub(crate) fn rejected_for(clock: &ManualClock, retry: Retry, rejected: Rejected) -> Duration {
    let start = elapsed(clock);
    let stack = Pipeline::new((retry, Guarded(Reject(rejected))));
    // Never executed, so it may be repeated even so.
    let once = CallOptions::new().idempotent(false);
    let result = clock.block_on(stack.with(once).call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(result, Err(rejected.into()));
    elapsed(clock) - start
}

#[test]
fn the_time_of_a_rejection_is_waited_exactly() {
    let clock = ManualClock::new();
    let retry = || doubling(&clock).max_attempts(2);
    let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(42));
    assert_eq!(
        rejected_for(&clock, retry().build().unwrap(), limited),
        s(42)
    );

    let open = Rejected::new("breaker", Reason::CircuitOpen).with_retry_after(s(42));
    assert_eq!(rejected_for(&clock, retry().build().unwrap(), open), s(0));
    let patient = retry().retry_open_circuit(true).build().unwrap();
    assert_eq!(rejected_for(&clock, patient, open), s(42));
}

#[test]
fn an_open_circuit_is_not_waited_out_past_the_deadline() {
    let clock = ManualClock::new();
    let open = Rejected::new("breaker", Reason::CircuitOpen).with_retry_after(s(42));
    let stack = (
        total(&clock, s(10)),
        doubling(&clock).retry_open_circuit(true).build().unwrap(),
        Guarded(Reject(open)),
    );
    let result = clock.block_on(stack.call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(result, Err(open.into()));
    assert_eq!(elapsed(&clock), s(0));
}

#[test]
fn a_hook_for_errors_gets_rejections_too() {
    let clock = ManualClock::new();
    let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(42));
    let heard = std::cell::RefCell::new(Vec::new());
    let retry = doubling(&clock).max_attempts(2).build().unwrap();
    let retry = retry.notify(|error: &backstop::Error<()>, retrying| {
        let (attempt, delay) = (retrying.attempt(), retrying.delay());
        heard.borrow_mut().push((error.reason(), attempt, delay));
    });
    let stack = (&retry, Guarded(Reject(limited)));
    let result = clock.block_on(stack.call(|| async { Ok::<(), ()>(()) }));
    assert_eq!(result, Err(limited.into()));
    assert_eq!(*heard.borrow(), [(Some(Reason::RateLimited), 1, s(42))]);
}

#[test]
fn a_retry_outside_waits_for_the_rest_of_a_hint_only() {
    let clock = ManualClock::new();
    let retry = || {
        let backoff = Backoff::fixed(ms(7)).jitter(Jitter::None);
        let retry = Retry::builder().max_attempts(2).backoff(backoff.clone());
        retry.throttled_backoff(backoff).clock(clock.clone())
    };
    let outer = retry().build().unwrap();
    let busy = Classify::errors(|_: &&str| Verdict::throttled(ms(500)));
    let took = |policy: &dyn Fn()| {
        let start = elapsed(&clock);
        policy();
        elapsed(&clock) - start
    };
    // The second attempt of the inner retry is rejected.
    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(1));
    let breaker = breaker.clock(clock.clone()).build().unwrap();
    let stack = (&outer, retry().build().unwrap(), breaker, &busy);
    let call = || {
        let result = clock.block_on(stack.call(|| async { Err::<(), _>("busy") }));
        assert_eq!(result, Err(Error::Operation("busy")));
    };
    assert_eq!(took(&call), ms(507));
    // The inner retry waits although the budget is empty.
    let budget = RetryBudget::tokens().capacity(0).build().unwrap();
    let inner = retry().budget(budget).wait_when_budget_empty(true);
    let stack = (&outer, inner.build().unwrap(), &busy);
    let call = || {
        let result = clock.block_on(stack.call(|| async { Err::<(), _>("busy") }));
        assert_eq!(result, Err(Error::Operation("busy")));
    };
    assert_eq!(took(&call), ms(500 + 7 + 500));
}
