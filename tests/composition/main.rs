//! Stacks as a subject of their own: what policies do to each other.
//!
//! Most tests read *given* a stack, *when* the operation does this, *then* the call ends like that,
//! after so many attempts and so much virtual time.

mod blocking;
mod boxed;
mod checked;
mod clock_readings;
mod deadlines;
mod endings;
mod endpoints;
mod observers;
mod printed;
#[cfg(feature = "tokio")]
mod reconfigured;
mod rejections;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::event::Ending;
use backstop::event::Ending::{Failed, Succeeded, TimedOut};
use backstop::{
    Backoff, CallOptions, Classify, ClassifyErrors, Clock, Error, Event, Jitter, ManualClock,
    Pipeline, Policy, Priority, Reason, Retry, RetryBudget, Timeout, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Down,
    Forbidden,
    /// Busy, come back after so many milliseconds.
    Busy(u64),
}
use Fault::{Busy, Down, Forbidden};

/// What an attempt does: it answers after so many milliseconds, if at all.
#[derive(Clone, Copy, Debug)]
enum Does {
    Good(u64),
    Bad(u64, Fault),
    Hang,
}
use Does::{Bad, Good, Hang};

fn timeout(clock: &ManualClock, millis: u64) -> Timeout {
    let timeout = Timeout::builder().after(ms(millis)).clock(clock.clone());
    timeout.build().unwrap()
}

/// Three attempts, 100 ms and 200 ms apart.
fn retry(clock: &ManualClock) -> Retry {
    let exact = |backoff: Backoff| backoff.jitter(Jitter::None);
    let retry = Retry::builder()
        .backoff(exact(Backoff::exponential(ms(100))))
        .throttled_backoff(exact(Backoff::exponential(ms(100))));
    retry.clock(clock.clone()).build().unwrap()
}

/// Knows the faults.
fn classify() -> ClassifyErrors<fn(&Fault) -> Verdict> {
    Classify::errors(|fault: &Fault| match *fault {
        Down => Verdict::transient(),
        Forbidden => Verdict::permanent(),
        Busy(after) => Verdict::throttled(ms(after)),
    })
}

/// Says the same of everything that went wrong.
fn all_are(verdict: Verdict) -> Classify<impl Fn(Result<&(), &Error<Fault>>) -> Verdict> {
    Classify::by(move |result: Result<&(), &Error<Fault>>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => verdict,
    })
}

/// What came of a call: how it ended, after how many attempts, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen(Ending, u32, Duration);

/// Makes one call; each attempt does the next thing of `script`, and then the last one again.
macro_rules! when {
    (|$clock:ident| $stack:expr, $script:expr) => {{
        let clock = ManualClock::new();
        let script: &[Does] = $script;
        let stack = {
            let $clock = &clock;
            $stack
        };
        let attempt = Cell::new(0);
        let report = clock.block_on(stack.call_reported(|| {
            let does = script[attempt.get().min(script.len() - 1)];
            attempt.set(attempt.get() + 1);
            let clock = &clock;
            async move {
                let (after, answer) = match does {
                    Good(after) => (after, Ok(())),
                    Bad(after, fault) => (after, Err(fault)),
                    Hang => pending().await,
                };
                if after > 0 {
                    clock.sleep(ms(after)).await;
                }
                answer
            }
        }));
        assert_eq!(clock.sleepers(), 0);
        Seen(Ending::of(&report.result), report.attempts, report.elapsed)
    }};
}

/// `given! { |clock| stack => { [script] => ending, attempts, milliseconds; ... } ... }`
macro_rules! given {
    ($(|$clock:ident| $stack:expr => {
        $([$($does:expr),*] => $ending:expr, $attempts:expr, $millis:expr;)*
    })*) => {$($(
        let seen = when!(|$clock| $stack, &[$($does),*]);
        let expected = Seen($ending, $attempts, ms($millis));
        let given = concat!(stringify!($stack), ", when ", stringify!([$($does),*]));
        assert_eq!(seen, expected, "given {given}");
    )*)*};
}

// After the macros that it uses.
mod copies;
mod pipelines;

// ===== Pairs, by the outer one =====

#[test]
fn timeouts_nest_and_the_earliest_wins() {
    for (outer, inner) in [(100, 300), (300, 100), (100, 100)] {
        given! {
            |c| (timeout(c, outer), timeout(c, inner)) => {
                [Hang] => TimedOut, 1, 100;
                [Good(99)] => Succeeded, 1, 99;
                // At the very instant, the operation is asked first.
                [Good(100)] => Succeeded, 1, 100;
                [Good(101)] => TimedOut, 1, 100;
            }
        }
    }
}

#[test]
fn a_timeout_limits_the_retries_inside() {
    given! {
        |c| (timeout(c, 250), retry(c)) => {
            [Hang] => TimedOut, 1, 250;
            [Bad(0, Down), Good(10)] => Succeeded, 2, 110;
            // The second attempt begins at 100 ms. The third would at 300 ms: no layer waits for it.
            [Bad(0, Down)] => Failed, 2, 100;
            [Bad(0, Down), Hang] => TimedOut, 2, 250;
        }
    }
}

#[test]
fn a_retry_repeats_what_timed_out_inside() {
    given! {
        |c| (retry(c), timeout(c, 50)) => {
            [Hang, Good(10)] => Succeeded, 2, 160;
            [Hang, Bad(10, Down), Good(49)] => Succeeded, 3, 409;
        }
    }
}

#[test]
fn pitfall_50_when_every_attempt_times_out_the_call_returns_an_error() {
    given! {
        |c| (retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 3, 450; }
        |c| (timeout(c, 1000), retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 3, 450; }
        |c| (timeout(c, 60), retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 1, 50; }
    }
}

#[test]
fn a_retry_follows_the_classifier_inside() {
    given! {
        |c| (retry(c), classify()) => {
            [Bad(0, Forbidden)] => Failed, 1, 0;
            [Bad(0, Down), Bad(0, Forbidden)] => Failed, 2, 100;
            [Bad(0, Busy(700)), Good(0)] => Succeeded, 2, 700;
        }
    }
}

#[test]
fn a_classifier_outside_a_retry_comes_too_late_for_it() {
    given! {
        |c| (classify(), retry(c)) => {
            [Bad(0, Forbidden)] => Failed, 3, 300;
            [Bad(0, Busy(700)), Good(0)] => Succeeded, 2, 100;
        }
    }
}

#[test]
fn a_classifier_sees_only_the_timeouts_inside_it() {
    let permanent = || all_are(Verdict::permanent());
    given! {
        |c| (retry(c), permanent(), timeout(c, 50)) => { [Hang] => TimedOut, 1, 50; }
        |c| (retry(c), timeout(c, 50), permanent()) => { [Hang] => TimedOut, 3, 450; }
    }
}

#[test]
fn of_two_classifiers_the_outer_one_has_the_last_word() {
    let (yes, no) = (Verdict::transient(), Verdict::permanent());
    given! {
        |c| (retry(c), all_are(yes), all_are(no)) => { [Bad(0, Down)] => Failed, 3, 300; }
        |c| (retry(c), all_are(no), all_are(yes)) => { [Bad(0, Down)] => Failed, 1, 0; }
    }
}

#[test]
fn nested_retries_multiply_and_the_check_says_so() {
    given! {
        // Three times 300 ms inside, and 100 ms and 200 ms outside.
        |c| (retry(c), retry(c)) => { [Bad(0, Down)] => Failed, 9, 1200; }
    }
    let clock = ManualClock::new();
    let found = Pipeline::new((retry(&clock), retry(&clock))).check();
    assert_eq!(found.len(), 1);
}

// ===== Triples and more =====

#[test]
fn the_usual_stack() {
    given! {
        |c| (timeout(c, 1000), retry(c), timeout(c, 200), classify()) => {
            [Good(0)] => Succeeded, 1, 0;
            [Good(201)] => TimedOut, 3, 900;
            [Hang, Good(150)] => Succeeded, 2, 450;
            [Bad(20, Forbidden)] => Failed, 1, 20;
            [Bad(0, Busy(999)), Good(0)] => Succeeded, 2, 999;
        }
    }
}

#[test]
fn pitfall_48_a_hint_beyond_the_deadline_ends_the_call_now() {
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
fn pitfall_55_the_longest_time_counts_the_operations_and_what_inner_layers_wait() {
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
fn pitfall_51_a_panic_is_a_panic_and_not_a_timeout() {
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

// ===== Wrappers =====

#[test]
fn wrappers_change_nothing() {
    let scripts: [&[Does]; 4] = [
        &[Hang],
        &[Bad(0, Down)],
        &[Bad(5, Down), Good(5)],
        &[Good(0)],
    ];
    for script in scripts {
        let bare = when!(|c| (timeout(c, 250), retry(c), timeout(c, 40)), script);
        macro_rules! same {
            ($(|$clock:ident| $stack:expr;)*) => {$(
                assert_eq!(when!(|$clock| $stack, script), bare, "{}", stringify!($stack));
            )*};
        }
        same! {
            |c| Some((timeout(c, 250), retry(c), timeout(c, 40)));
            |c| Arc::new((timeout(c, 250), retry(c), timeout(c, 40)));
            |c| (Some(timeout(c, 250)), retry(c), timeout(c, 40));
            |c| (timeout(c, 250), Some(Arc::new(retry(c))), timeout(c, 40));
            |c| (timeout(c, 250), Arc::new(retry(c)), Arc::new(Some(timeout(c, 40))));
            |c| ((timeout(c, 250), retry(c)), (timeout(c, 40),));
            |c| (timeout(c, 250), (retry(c), timeout(c, 40)));
            |c| (timeout(c, 250), None::<Retry>, retry(c), timeout(c, 40), None::<Timeout>);
            |c| (timeout(c, 250), Pipeline::new((retry(c), timeout(c, 40))));
            |c| Pipeline::new((timeout(c, 250), retry(c), timeout(c, 40))).observer(|_: &Event| {});
        }
    }
}

#[test]
fn none_is_as_if_it_were_not_there() {
    given! {
        |c| (None::<Timeout>, retry(c)) => { [Bad(0, Down)] => Failed, 3, 300; }
        |c| (timeout(c, 50), None::<Retry>) => {
            [Bad(0, Down)] => Failed, 1, 0;
            [Hang] => TimedOut, 1, 50;
        }
    }
    let nothing = (None::<Retry>, Arc::new(None::<Timeout>));
    let result = nothing.call_blocking(|| Ok::<_, Fault>(7));
    assert_eq!(result, Ok(7));
    let one_retry = Pipeline::new((None::<Retry>, retry(&ManualClock::new())));
    assert!(one_retry.check().is_empty());
}

// ===== What travels =====

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
fn a_pipeline_inside_with_an_observer_reports_to_that_one_alone() {
    let clock = ManualClock::new();
    let heard = |of: &'static str, log: &Arc<Mutex<Vec<String>>>| {
        let log = log.clone();
        move |event: &Event| log.lock().unwrap().push(format!("{of}: {}", event.kind()))
    };
    let log = Arc::default();
    let inner = Pipeline::new(retry(&clock)).observer(heard("inner", &log));
    let silent = Pipeline::new(timeout(&clock, 10));
    let outer = Pipeline::new((inner, silent)).observer(heard("outer", &log));
    let hangs = outer.with(CallOptions::new().idempotent(false));
    let result = clock.block_on(hangs.call(pending::<Result<(), Fault>>));
    assert!(result.unwrap_err().is_timeout());
    let expected = [
        // Of a layer that stands inside the inner one, but not in it.
        "outer: timed_out",
        "inner: retry_stopped",
        "inner: call_finished",
        "outer: call_finished",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
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
