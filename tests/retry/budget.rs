//! The budget: what pays, what it costs, and what refills it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::task::{Context as TaskContext, Waker};

use backstop::circuit_breaker::Trip;
use backstop::event::StopReason;
use backstop::policy::{ErrorClass, Guard, Guarded};
use backstop::{
    Backoff, CircuitBreaker, Classify, Context, Error, Event, Jitter, ManualClock, Outcome,
    Pipeline, Policy, Quota, RateLimiter, Reason, Rejected, Retry, RetryBudget, Verdict,
};

use super::rejections::rejected_for;
use super::{doubling, elapsed, ms, s, stops, total};

#[test]
fn a_budget_bounds_the_extra_calls_of_failing_traffic() {
    let clock = ManualClock::new();
    let budget = RetryBudget::percentage()
        .ratio(0.2)
        .floor(0)
        .clock(clock.clone())
        .build()
        .unwrap();
    let retry = Retry::builder()
        .max_attempts(10)
        .backoff(Backoff::NONE)
        .budget(budget)
        .clock(clock.clone())
        .build()
        .unwrap();
    let sent = Cell::new(0_u32);
    for _ in 0..1000 {
        // Every second request fails.
        let _ = clock.block_on(retry.call(|| {
            sent.set(sent.get() + 1);
            let fails = sent.get() % 2 == 0;
            async move { if fails { Err(()) } else { Ok(()) } }
        }));
    }
    assert!((1190..=1200).contains(&sent.get()), "{}", sent.get());
}

#[test]
fn what_never_reached_the_dependency_costs_no_budget() {
    let clock = ManualClock::new();
    for budget in [
        RetryBudget::tokens().capacity(0).build(),
        RetryBudget::grpc(1, 1.0).build(),
    ] {
        let budget = budget.unwrap();
        let before = budget.snapshot();
        let retry = doubling(&clock).max_attempts(2).budget(budget.clone());
        let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(7));
        assert_eq!(rejected_for(&clock, retry.build().unwrap(), limited), s(7));
        assert_eq!(budget.snapshot(), before);
    }
}

#[test]
fn an_empty_budget_returns_the_error_at_once_or_after_the_delay() {
    for (wait, expected) in [(false, s(0)), (true, ms(100))] {
        let clock = ManualClock::new();
        let (kept, observer) = stops();
        let budget = RetryBudget::tokens().capacity(0).build().unwrap();
        let retry = doubling(&clock).budget(budget).wait_when_budget_empty(wait);
        let stack = Pipeline::new(retry.build().unwrap()).observer(observer);
        assert_eq!(attempts_of!(&clock, &stack), [s(0)]);
        assert_eq!(elapsed(&clock), expected);
        assert_eq!(*kept.lock().unwrap(), [StopReason::BudgetEmpty]);
    }
}

#[test]
fn attempts_pay_by_the_class_of_their_error() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens()
        .cost(ErrorClass::Timeout, 10)
        .build()
        .unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let stack = (retry, total(&clock, s(1)));
    let result = clock.block_on(stack.call(std::future::pending::<Result<(), ()>>));
    assert!(result.unwrap_err().is_timeout());
    assert_eq!(budget.snapshot().available, 480.0);
}

#[test]
fn a_budget_counts_the_attempts_in_flight_until_they_end() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let seen = RefCell::new(Vec::new());
    let _ = clock.block_on(retry.call(|| {
        let now = budget.snapshot();
        seen.borrow_mut()
            .push((now.calls_in_flight, now.extras_in_flight));
        async { Err::<(), _>(()) }
    }));
    assert_eq!(*seen.borrow(), [(1, 0), (1, 1), (1, 1)]);
    let after = budget.snapshot();
    assert_eq!((after.calls_in_flight, after.extras_in_flight), (0, 0));
}

#[test]
fn a_retry_that_is_cancelled_before_it_begins_gives_its_share_back() {
    let clock = ManualClock::new();
    let percentage = RetryBudget::percentage().clock(clock.clone()).build();
    for budget in [percentage, RetryBudget::tokens().build()] {
        let budget = budget.unwrap();
        let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
        let before = budget.snapshot().available;
        let mut task = TaskContext::from_waker(Waker::noop());
        for begun in [0, 1] {
            let mut call = Box::pin(retry.call(|| async { Err::<(), _>(()) }));
            for _ in 0..=begun {
                assert!(call.as_mut().poll(&mut task).is_pending());
                assert!(budget.snapshot().available < before);
                clock.advance(s(1));
            }
            drop(call);
            // The second retry waits in its turn, while the first one was made.
            assert_eq!(budget.snapshot().available < before, begun == 1);
        }
    }
}

#[test]
fn only_healthy_answers_refill_a_budget() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().initial(5).build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    for (verdict, available) in [
        (Verdict::failure(), 5.0),
        (Verdict::ignore(), 5.0),
        (Verdict::success(), 6.0),
    ] {
        let is = Classify::by(move |_: Result<&(), &Error<()>>| verdict);
        let result = clock.block_on((&retry, is).call(|| async { Ok(()) }));
        assert_eq!((result, budget.snapshot().available), (Ok(()), available));
    }
}

#[test]
fn a_copy_dropped_while_it_waits_with_an_empty_budget_reports_its_error() {
    let clock = ManualClock::new();
    let empty = RetryBudget::tokens().capacity(0).build().unwrap();
    let retry = Retry::builder()
        .backoff(Backoff::fixed(s(10)).jitter(Jitter::None))
        .budget(empty)
        .wait_when_budget_empty(true)
        .clock(clock.clone())
        .build()
        .unwrap();
    let hedge = backstop::Hedge::builder().after(s(1)).clock(clock.clone());
    let (stack, copies) = ((hedge.build().unwrap(), retry), Cell::new(0));
    let report = clock.block_on(stack.call_reported(|| {
        let copy = copies.replace(copies.get() + 1);
        async move { if copy == 0 { Err("down") } else { Ok(()) } }
    }));
    assert_eq!(report.result, Ok(()));
    assert_eq!(elapsed(&clock), s(1));
    assert_eq!(report.last_error, Some("down"));
}

#[test]
fn failures_that_the_server_forbids_to_retry_cost_a_token() {
    let clock = ManualClock::new();
    for (verdict, tokens) in [
        (Verdict::failure(), 9.0),
        (Verdict::throttled(None).with_retry(false), 9.0),
        (Verdict::permanent(), 10.0),
        (Verdict::ignore(), 10.0),
    ] {
        let budget = RetryBudget::grpc(10, 0.1).build().unwrap();
        let retry = Retry::builder().budget(budget.clone()).clock(clock.clone());
        let stack = (
            retry.build().unwrap(),
            Classify::errors(move |_: &&str| verdict),
        );
        let result = clock.block_on(stack.call(|| async { Err::<(), _>("down") }));
        assert!(result.is_err());
        assert_eq!(budget.snapshot().available, tokens, "{verdict}");
    }
}

#[test]
fn a_late_success_refunds_the_price_of_its_retry() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().build().unwrap();
    let full = budget.snapshot();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let attempts = Cell::new(0);
    let result = clock.block_on(retry.call(|| {
        attempts.set(attempts.get() + 1);
        let is_first = attempts.get() == 1;
        async move { if is_first { Err(()) } else { Ok(()) } }
    }));
    assert_eq!((result, attempts.get()), (Ok(()), 2));
    assert_eq!(budget.snapshot(), full);
}

#[test]
fn a_retry_that_fails_for_good_is_counted_and_over_when_the_observer_hears_of_it() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let heard = std::sync::Arc::<std::sync::Mutex<Vec<_>>>::default();
    let log = heard.clone();
    let observer = move |event: &Event| {
        if let Event::RetryStopped {
            attempt, executed, ..
        } = event
        {
            let extras = budget.snapshot().extras_in_flight;
            log.lock().unwrap().push((*attempt, *executed, extras));
        }
    };
    let verdict = |is_first: &bool| match is_first {
        true => Verdict::transient(),
        false => Verdict::permanent(),
    };
    let stack = Pipeline::new((retry, Classify::errors(verdict))).observer(observer);
    let attempts = Cell::new(0);
    let result = clock.block_on(stack.call(|| {
        attempts.set(attempts.get() + 1);
        let is_first = attempts.get() == 1;
        async move { Err::<(), _>(is_first) }
    }));
    assert_eq!(result, Err(Error::Operation(false)));
    assert_eq!(*heard.lock().unwrap(), [(2, 2, 0)]);
}

/// A limiter that admits one call, and the next one after 10 ms.
fn limiter(clock: &ManualClock) -> RateLimiter {
    let quota = Quota::new(1, ms(10)).burst(1);
    let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
    limiter.build().unwrap()
}

#[test]
fn a_retry_that_an_inner_layer_rejects_costs_no_budget() {
    let clock = ManualClock::new();
    let percentage = RetryBudget::percentage().clock(clock.clone()).build();
    for (budget, price) in [(percentage, 1.0), (RetryBudget::tokens().build(), 14.0)] {
        let budget = budget.unwrap();
        for (attempts, executed) in [(2, 1), (3, 2), (4, 2), (5, 3)] {
            let before = budget.snapshot().available;
            let retry = Retry::builder()
                .max_attempts(attempts)
                .backoff(Backoff::NONE)
                .budget(budget.clone())
                .clock(clock.clone());
            let stack = (retry.build().unwrap(), limiter(&clock));
            let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(()) }));
            assert_eq!(report.attempts, executed);
            let paid = before - budget.snapshot().available;
            assert_eq!(paid, price * f64::from(executed - 1), "{attempts} attempts");
        }
    }
}

#[test]
fn a_retry_after_a_rejected_one_is_counted_in_flight() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = Retry::builder()
        .backoff(Backoff::NONE)
        .budget(budget.clone())
        .clock(clock.clone());
    let stack = (retry.build().unwrap(), limiter(&clock));
    let seen = RefCell::new(Vec::new());
    let _ = clock.block_on(stack.call(|| {
        seen.borrow_mut().push(budget.snapshot().extras_in_flight);
        async { Err::<(), _>(()) }
    }));
    assert_eq!(*seen.borrow(), [0, 1]);
}

#[test]
fn a_failure_that_ends_an_inner_retry_is_recorded_once() {
    let clock = ManualClock::new();
    let retry = |attempts, budget: &RetryBudget| {
        let retry = Retry::builder()
            .max_attempts(attempts)
            .backoff(Backoff::NONE);
        let retry = retry.budget(budget.clone()).clock(clock.clone());
        retry.build().unwrap()
    };
    for (attempts, executed, left) in [(1, 1, 9.0), (2, 2, 8.0), (3, 3, 7.0)] {
        let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
        let stack = (retry(1, &budget), retry(attempts, &budget));
        let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(()) }));
        assert_eq!(report.attempts, executed);
        assert_eq!(budget.snapshot().available, left, "{attempts} attempts");
        // The second attempt is rejected.
        let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
        let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(1));
        let breaker = breaker.clock(clock.clone()).build().unwrap();
        let stack = (retry(1, &budget), retry(attempts, &budget), breaker);
        let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(()) }));
        assert_eq!(report.attempts, 1);
        assert_eq!(report.result, Err(Error::Operation(())));
        assert_eq!(budget.snapshot().available, 9.0, "{attempts} attempts");
    }
    // The budget ends the inner retry: five tokens are not more than half.
    let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
    let stack = (retry(1, &budget), retry(10, &budget));
    let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(()) }));
    assert_eq!((report.attempts, budget.snapshot().available), (5, 5.0));
}

#[test]
fn a_rejection_that_a_classifier_calls_a_failure_costs_no_tokens() {
    let clock = ManualClock::new();
    let budget = RetryBudget::grpc(10, 0.1).build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let breaker = backstop::CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let _isolation = breaker.isolate();
    let relabel = Classify::by(|_: Result<&(), &Error<()>>| Verdict::failure());
    let result = clock.block_on((retry, relabel, &breaker).call(|| async { Ok(()) }));
    assert!(result.unwrap_err().is_rejected());
    assert_eq!(budget.snapshot().ratio, 1.0);
}

#[test]
fn nested_retries_with_one_budget_count_a_failure_once() {
    let clock = ManualClock::new();
    let left = |layers: u32| {
        let budget = RetryBudget::grpc(10, 0.1).build().unwrap();
        let retry = || doubling(&clock).budget(budget.clone()).build().unwrap();
        let stack = (retry(), (layers > 1).then(retry));
        let fails = || async { Err::<(), _>(backstop::Classified::failure(())) };
        assert!(clock.block_on(stack.call_classified(fails)).is_err());
        budget.snapshot().ratio
    };
    assert_eq!(left(2), left(1));
    assert!(left(1) < 1.0);
}

#[test]
fn a_bucket_starts_with_its_capacity_at_most() {
    let budget = RetryBudget::tokens().capacity(20).initial(1000);
    let budget = budget.cost(ErrorClass::Transient, 10).build().unwrap();
    let mut call = budget.begin();
    let withdrawn = std::iter::from_fn(|| call.withdraw(ErrorClass::Transient));
    assert_eq!(withdrawn.take(10).count(), 2);
}

#[test]
fn a_throttled_answer_counts_as_a_failure_even_if_it_must_not_be_retried() {
    let clock = ManualClock::new();
    let budget = RetryBudget::grpc(10, 0.1).build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let verdict = Verdict::throttled(None)
        .with_health(backstop::Health::Neutral)
        .with_retry(false);
    let fails = || async { Err::<(), _>(backstop::Classified::new((), verdict)) };
    assert!(clock.block_on(retry.call_classified(fails)).is_err());
    assert!(budget.snapshot().ratio < 1.0);
}

#[test]
fn the_wait_of_a_layer_inside_is_no_hint_of_a_server() {
    let clock = ManualClock::new();
    // Longer than `max_hint`.
    let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(100));
    let retry = doubling(&clock).max_attempts(2).max_hint(s(60));
    assert_eq!(
        rejected_for(&clock, retry.build().unwrap(), limited),
        s(100)
    );
}

/// An outer retry and one inside it that waits when the budget, which they share, is empty, for ten seconds each time.
fn nested_with_a_last_wait(
    clock: &ManualClock,
    budget: &RetryBudget,
    attempts: u32,
) -> (Retry, Retry) {
    let retry = |attempts| {
        let retry = Retry::builder().max_attempts(attempts).clock(clock.clone());
        let retry = retry.backoff(Backoff::fixed(s(10)).jitter(Jitter::None));
        retry.budget(budget.clone()).wait_when_budget_empty(true)
    };
    let inner = retry(attempts).return_rejection(true);
    (retry(1).build().unwrap(), inner.build().unwrap())
}

#[test]
fn a_failure_costs_its_token_even_if_the_call_is_cancelled_in_the_wait_after_it() {
    for (waits, left) in [(1, 9.0), (5, 5.0)] {
        let clock = ManualClock::new();
        let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
        let stack = nested_with_a_last_wait(&clock, &budget, 10);
        let mut call = Box::pin(stack.call(|| async { Err::<(), _>(()) }));
        let mut task = TaskContext::from_waker(Waker::noop());
        for _ in 0..waits {
            assert!(call.as_mut().poll(&mut task).is_pending());
            clock.advance(s(10));
        }
        drop(call);
        assert_eq!(budget.snapshot().available, left, "{waits} waits");
    }
    // The outer retry records the failure of a call that has ended.
    let clock = ManualClock::new();
    let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
    let stack = nested_with_a_last_wait(&clock, &budget, 10);
    assert!(
        clock
            .block_on(stack.call(|| async { Err::<(), _>(()) }))
            .is_err()
    );
    assert_eq!((elapsed(&clock), budget.snapshot().available), (s(50), 5.0));
}

/// Admits the first call. Empties the budget and rejects the others, for seven seconds.
struct AdmitOne {
    admitted: Cell<bool>,
    budget: RetryBudget,
}

impl Guard for AdmitOne {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        if !self.admitted.replace(true) {
            return Ok(());
        }
        (0..10).for_each(|_| self.budget.begin().failure());
        Err(Rejected::new("guard", Reason::RateLimited).with_retry_after(s(7)))
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

#[test]
fn a_rejection_that_is_returned_after_a_wait_has_the_rest_of_its_time() {
    for (delay, left) in [(7, 0), (2, 5), (100, 0)] {
        let clock = ManualClock::new();
        let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
        let guard = Guarded(AdmitOne {
            admitted: Cell::new(false),
            budget: budget.clone(),
        });
        let retry = Retry::builder().budget(budget).clock(clock.clone());
        let retry = retry.wait_when_budget_empty(true).return_rejection(true);
        let retry = retry.delay_with(move |_| s(delay)).build().unwrap();
        let result = clock.block_on((retry, guard).call(|| async { Err::<(), _>(()) }));
        // The wait after the failure, and that with an empty budget.
        assert_eq!(elapsed(&clock), s(2 * delay));
        let rejected = result.unwrap_err();
        assert_eq!(rejected.retry_after(), Some(s(left)));
    }
}
