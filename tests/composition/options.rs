//! What travels inwards: the deadline, the options of a call, and budgets that stacks share.

use std::cell::{Cell, RefCell};
use std::future::pending;

use backstop::{
    Backoff, CallOptions, Clock, Error, ManualClock, Pipeline, Policy, Priority, Retry,
    RetryBudget, Timeout,
};

use super::Fault::Down;
use super::{Fault, ms, retry, timeout};

#[test]
fn the_deadline_travels_inwards_and_into_nested_calls() {
    let clock = ManualClock::new();
    let outer = (timeout(&clock, 100), retry(&clock), timeout(&clock, 1000));
    let inner = (retry(&clock), timeout(&clock, 500));
    let seen = RefCell::new(Vec::new());
    let result: Result<(), _> = clock.block_on(outer.call_with(|attempt| {
        seen.borrow_mut().push(attempt.remaining());
        let (clock, inner, seen) = (&clock, &inner, &seen);
        async move {
            clock.sleep(ms(30)).await;
            // Another stack, called by the operation: it has no more time than is left here.
            let call = inner.call_with(|attempt| {
                seen.borrow_mut().push(attempt.remaining());
                pending::<Result<(), Fault>>()
            });
            call.await.map_err(|_| Down)
        }
    }));
    // It gave up when the time was up, and its answer came before the outer timeout's.
    assert_eq!(result, Err(Error::Operation(Down)));
    assert_eq!(*seen.borrow(), [Some(ms(100)), Some(ms(70))]);
    assert_eq!(clock.now().as_nanos(), 100_000_000);
}

#[test]
fn a_call_that_must_not_be_repeated_is_not_by_any_layer() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new((retry(&clock), retry(&clock), timeout(&clock, 50)));
    let once = CallOptions::new().idempotent(false);
    for hangs in [true, false] {
        let report = clock.block_on(pipeline.with(once).call_reported(|| async move {
            if hangs {
                pending::<()>().await;
            }
            Err::<(), _>(Down)
        }));
        assert_eq!(report.attempts, 1);
    }
}

#[test]
fn options_reach_the_operation_and_those_not_set_stay_as_they_are() {
    let clock = ManualClock::new();
    let (outer, inner) = (
        Pipeline::new(timeout(&clock, 1000)),
        Pipeline::new(retry(&clock)),
    );
    let call = |of_outer: CallOptions, of_inner: CallOptions| {
        let attempts = Cell::new(0);
        let last = Cell::new(None);
        let stack = (outer.with(of_outer), inner.with(of_inner));
        let call = stack.call_with(|attempt| {
            attempts.set(attempts.get() + 1);
            last.set(Some((
                attempt.priority(),
                attempt.cost(),
                attempt.remaining(),
            )));
            async { Err::<(), _>(Down) }
        });
        assert!(clock.block_on(call).is_err());
        let (priority, cost, left) = last.get().expect("it was called");
        (priority, cost, left, attempts.get())
    };
    let (none, all) = (
        CallOptions::new(),
        CallOptions::new()
            .priority(Priority::HIGH.level(7))
            .cost(9)
            .idempotent(false)
            .deadline(ms(100)),
    );
    let high = Priority::HIGH.level(7);
    assert_eq!(call(none, none), (Priority::NORMAL, 1, Some(ms(700)), 3));
    let set = (high, 9, Some(ms(100)), 1);
    assert_eq!(call(all, none), set);
    assert_eq!(call(none, all), set);
    // What the inner ones set holds.
    let low = CallOptions::new().priority(Priority::LOW).cost(2);
    assert_eq!(
        call(all, low.idempotent(true).deadline(ms(500))),
        (Priority::LOW, 2, Some(ms(100)), 1)
    );
}

#[test]
fn one_budget_serves_several_stacks() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().capacity(28).build().unwrap();
    let stack = |limit| {
        let retry = Retry::builder()
            .backoff(Backoff::NONE)
            .budget(budget.clone());
        (
            timeout(&clock, limit),
            retry.clock(clock.clone()).build().unwrap(),
        )
    };
    let attempts = |stack: &(Timeout, Retry)| {
        let report = stack.call_reported(|| async { Err::<(), _>(Down) });
        clock.block_on(report).attempts
    };
    let (a, b) = (stack(10), stack(20));
    assert_eq!([attempts(&a), attempts(&b), attempts(&a)], [3, 1, 1]);
}

#[test]
fn nested_retries_under_alternating_budgets_count_a_call_once_in_each() {
    let clock = ManualClock::new();
    let budget = || RetryBudget::in_flight().build().unwrap();
    let (a, b, c) = (budget(), budget(), budget());
    let under = |budget: &RetryBudget| {
        let retry = Retry::builder().max_attempts(1).budget(budget.clone());
        retry.clock(clock.clone()).build().unwrap()
    };
    let stack = (
        under(&a),
        under(&b),
        under(&a),
        under(&c),
        under(&b),
        under(&a),
    );
    let in_flight = clock.block_on(stack.call(|| async {
        Ok::<_, Fault>([&a, &b, &c].map(|budget| budget.snapshot().calls_in_flight))
    }));
    assert_eq!(in_flight, Ok([1, 1, 1]));
    assert_eq!(a.snapshot().calls_in_flight, 0);
}
