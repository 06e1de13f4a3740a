//! Limits of the whole call: the deadline, the longest time, and what a panic leaves behind.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use backstop::event::Ending::{Failed, Succeeded, TimedOut};
use backstop::{
    Backoff, CallOptions, Clock, Error, Jitter, ManualClock, Pipeline, Policy, Reason, Retry,
    RetryBudget,
};

use super::Does::{Bad, Good, Hang};
use super::Fault::{Busy, Down};
use super::{Fault, classify, ms, retry, timeout};

#[test]
fn a_hint_beyond_the_deadline_ends_the_call_now() {
    given! {
        |c| (timeout(c, 10_000), retry(c), classify()) => {
            [Bad(0, Busy(60_000))] => Failed, 1, 0;
            [Bad(3, Busy(9_997))] => Failed, 1, 3;
            [Bad(0, Busy(9_999)), Good(0)] => Succeeded, 2, 9999;
        }
    }
    // The deadline may come from anywhere.
    let clock = ManualClock::new();
    let pipeline = Pipeline::new((retry(&clock), classify()));
    let pipeline = pipeline.with(CallOptions::new().deadline(ms(10_000)));
    let report = pipeline.call_reported(|| async { Err::<(), _>(Busy(60_000)) });
    let report = clock.block_on(report);
    assert_eq!((report.attempts, report.elapsed), (1, ms(0)));
    assert_eq!(report.result, Err(Error::Operation(Busy(60_000))));
}

#[test]
fn the_longest_time_counts_the_operations_and_what_inner_layers_wait() {
    let impatient = |clock: &ManualClock| {
        let retry = Retry::builder()
            .max_attempts(100)
            .backoff(Backoff::fixed(ms(100)).jitter(Jitter::None))
            .max_elapsed(ms(500));
        retry.clock(clock.clone()).build().unwrap()
    };
    given! {
        // Begins at 0, 210 and 420 ms; the next would begin at 630 ms.
        |c| (impatient(c), timeout(c, 110)) => { [Hang] => TimedOut, 3, 530; }
        // The inner retry takes 300 ms each time: the second begins at 400 ms and is the last.
        |c| (impatient(c), retry(c)) => { [Bad(0, Down)] => Failed, 6, 700; }
    }
}

#[test]
fn a_panic_is_a_panic_and_not_a_timeout() {
    let clock = ManualClock::new();
    let stack = (timeout(&clock, 1000), retry(&clock), timeout(&clock, 100));
    let call = stack.call(|| async {
        clock.sleep(ms(10)).await;
        resume_unwind(Box::new("boom"));
        #[expect(unreachable_code, reason = "gives the future its type")]
        Ok::<(), Fault>(())
    });
    let panic = catch_unwind(AssertUnwindSafe(|| clock.block_on(call))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"boom"));
    assert_eq!((clock.now().as_nanos(), clock.sleepers()), (10_000_000, 0));
    // Nothing of the call is left behind, its deadline neither.
    let left = clock
        .block_on(stack.call_with(|attempt| async move { Ok::<_, Fault>(attempt.remaining()) }));
    assert_eq!(left, Ok(Some(ms(100))));
}

#[test]
fn an_attempt_that_cannot_start_in_time_is_not_started() {
    let clock = ManualClock::new();
    let started = Cell::new(false);
    let late = Pipeline::new(timeout(&clock, 1000));
    let call = late.with(CallOptions::new().deadline(Duration::ZERO));
    let result = clock.block_on(call.call(|| {
        started.set(true);
        async { Ok::<_, Fault>(()) }
    }));
    assert_eq!(result.unwrap_err().reason(), Some(Reason::DeadlineTooClose));
    assert!(!started.get());
}

#[test]
fn the_time_a_layer_waits_before_it_returns_is_part_of_the_call() {
    let patient = |c: &ManualClock| {
        let empty = RetryBudget::tokens().capacity(0).build().unwrap();
        let retry = Retry::builder()
            .backoff(Backoff::fixed(ms(100)).jitter(Jitter::None))
            .budget(empty)
            .wait_when_budget_empty(true);
        retry.clock(c.clone()).build().unwrap()
    };
    given! {
        |c| patient(c) => { [Bad(5, Down)] => Failed, 1, 105; }
        |c| (retry(c), patient(c)) => { [Bad(5, Down)] => Failed, 3, 615; }
    }
}
