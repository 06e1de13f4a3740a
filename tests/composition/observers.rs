//! What observers hear: the names, each event once, and the end of every call.

use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use backstop::event::{Ending, StopReason};
use backstop::{
    Backoff, Bulkhead, CallOptions, CircuitBreaker, Error, Event, ManualClock, Observer, Pipeline,
    Policy, Reason, Retry, Throttle,
};

use super::Fault::Down;
use super::{Fault, ms, retry, timeout};

/// Events as they were heard.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

impl Observer for Log {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

impl Log {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn lines(&self) -> Vec<String> {
        self.take().iter().map(ToString::to_string).collect()
    }

    /// The ends of calls heard: how each ended, after how many attempts.
    fn ends(&self) -> Vec<(Ending, u32)> {
        let ends = self.take().into_iter().filter_map(|event| match event {
            Event::CallFinished {
                ending, attempts, ..
            } => Some((ending, attempts)),
            _ => None,
        });
        ends.collect()
    }
}

fn full_bulkhead(clock: &ManualClock, observer: impl Observer + 'static) -> Bulkhead {
    let bulkhead = Bulkhead::builder().max_concurrent(1).name("db");
    let bulkhead = bulkhead.observer(observer).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    std::mem::forget(bulkhead.try_acquire());
    bulkhead
}

async fn good() -> Result<(), Fault> {
    Ok(())
}

#[test]
fn events_of_a_call_carry_the_name_of_its_pipeline_to_all_observers() {
    let clock = ManualClock::new();
    let (of_handle, of_pipeline) = (Log::default(), Log::default());
    let bulkhead = full_bulkhead(&clock, of_handle.clone());
    let stack = (timeout(&clock, 10), bulkhead.clone());
    let pipeline = Pipeline::new(stack)
        .observer(of_pipeline.clone())
        .with_name("github");

    assert!(clock.block_on(pipeline.call(good)).is_err());
    let heard = of_pipeline.take();
    assert_eq!(heard.len(), 2, "{heard:?}");
    for event in &heard {
        assert_eq!(event.pipeline(), Some("github"));
    }
    assert_eq!([heard[0].policy(), heard[1].policy()], ["db", "github"]);
    let own = of_handle.take();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].policy(), own[0].pipeline()), ("db", Some("github")));
    assert_eq!(own[0].sequence(), heard[0].sequence());

    assert!(clock.block_on(bulkhead.call(good)).is_err());
    assert_eq!(of_handle.take()[0].pipeline(), None);
}

#[test]
fn an_observer_shared_by_a_handle_and_a_pipeline_gets_an_event_once() {
    let clock = ManualClock::new();
    let rejections = |log: &Log| {
        let heard = log.take();
        heard.iter().filter(|e| e.kind() == "rejected").count()
    };
    let (a, b) = (Log::default(), Log::default());
    let (shared_a, shared_b) = (Arc::new(a.clone()), Arc::new(b.clone()));

    let bulkhead = full_bulkhead(&clock, shared_a.clone());
    let same = Pipeline::new(bulkhead.clone()).observer(shared_a.clone());
    assert!(clock.block_on(same.call(good)).is_err());
    assert_eq!(rejections(&a), 1);

    let in_tuple = Pipeline::new(bulkhead).observer((shared_b.clone(), shared_a.clone()));
    assert!(clock.block_on(in_tuple.call(good)).is_err());
    assert_eq!((rejections(&a), rejections(&b)), (1, 1));

    let both = full_bulkhead(&clock, Arc::new((shared_a.clone(), shared_b)));
    let one = Pipeline::new(both).observer(shared_a);
    assert!(clock.block_on(one.call(good)).is_err());
    assert_eq!((rejections(&a), rejections(&b)), (1, 1));

    let unshared = full_bulkhead(&clock, a.clone());
    let two = Pipeline::new(unshared).observer(a.clone());
    assert!(clock.block_on(two.call(good)).is_err());
    assert_eq!(rejections(&a), 2, "clones of an observer are two observers");
}

#[test]
fn every_part_of_a_tuple_gets_an_event_even_if_an_earlier_one_panics() {
    let clock = ManualClock::new();
    let log = Log::default();
    let panics = |_: &Event| panic!("an observer");
    let pipeline = Pipeline::new(timeout(&clock, 10)).observer((panics, log.clone()));
    let call = || clock.block_on(pipeline.call(good));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(log.ends(), [(Ending::Succeeded, 1)]);
}

#[test]
fn each_call_of_a_pipeline_ends_in_one_event() {
    let clock = ManualClock::new();
    let log = Log::default();
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let throttle = Throttle::builder().clock(clock.clone()).build().unwrap();
    let stack = (retry(&clock), breaker.clone(), throttle, timeout(&clock, 5));
    let pipeline = Pipeline::new(stack).observer(log.clone());
    // All handles have told their part by then.
    let ends = || log.ends();

    assert!(clock.block_on(pipeline.call(good)).is_ok());
    assert_eq!(ends(), [(Ending::Succeeded, 1)]);

    let down = || async { Err::<(), _>(Down) };
    assert!(clock.block_on(pipeline.call(down)).is_err());
    assert_eq!(ends(), [(Ending::Failed, 3)]);

    let hangs = pending::<Result<(), Fault>>;
    assert!(clock.block_on(pipeline.call(hangs)).is_err());
    assert_eq!(ends(), [(Ending::TimedOut, 3)]);

    let isolation = breaker.isolate();
    assert!(clock.block_on(pipeline.call(good)).is_err());
    assert_eq!(ends(), [(Ending::Rejected(Reason::Isolated), 0)]);
    drop(isolation);

    let task = &mut TaskContext::from_waker(Waker::noop());
    {
        let mut call = pin!(pipeline.call(hangs));
        assert!(call.as_mut().poll(task).is_pending());
        assert_eq!(ends(), []);
    }
    assert_eq!(ends(), [(Ending::Cancelled, 1)]);

    let in_future = || async { panic!("in the future") };
    let call = || clock.block_on(pipeline.call::<_, _, (), Fault>(in_future));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(ends(), [(Ending::Panicked, 1)]);

    let in_closure = || -> std::future::Ready<Result<(), Fault>> { panic!("in the closure") };
    let call = || clock.block_on(pipeline.call(in_closure));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(ends(), [(Ending::Panicked, 1)]);

    assert!(pipeline.call_blocking(|| Ok::<_, Fault>(())).is_ok());
    assert_eq!(ends(), [(Ending::Succeeded, 1)]);

    drop(pipeline.call(good));
    assert_eq!(ends(), [], "a future that was never polled is no call");
}

#[test]
fn a_cancelled_call_is_reported_after_its_operation_was_dropped() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            assert_eq!(self.0.ends(), [], "the call has ended before its operation");
        }
    }
    let clock = ManualClock::new();
    let log = Log::default();
    let pipeline = Pipeline::new(timeout(&clock, 9)).observer(log.clone());
    {
        let mut call = pin!(pipeline.call(|| {
            let dropped = Dropped(log.clone());
            poll_fn(move |_| {
                let _owned = &dropped;
                Poll::<Result<(), Fault>>::Pending
            })
        }));
        let task = &mut TaskContext::from_waker(Waker::noop());
        assert!(call.as_mut().poll(task).is_pending());
        clock.advance(ms(4));
    }
    let heard = log.take();
    assert_eq!(
        heard[0].to_string(),
        "pipeline: cancelled after 1 attempt in 4ms"
    );
    assert_eq!(heard.len(), 1);
}

#[test]
fn a_retry_says_what_stopped_it_and_counts_executed_attempts() {
    let clock = ManualClock::new();
    let log = Log::default();
    let breaker =
        CircuitBreaker::builder().trip_on(backstop::circuit_breaker::Trip::consecutive(2));
    let breaker = breaker.clock(clock.clone()).build().unwrap();
    let retry = Retry::builder().max_attempts(5).backoff(Backoff::NONE);
    let retry = retry.clock(clock.clone()).build().unwrap();
    let pipeline = Pipeline::new((retry.clone(), breaker)).observer(log.clone());
    let down = || async { Err::<(), _>(Down) };

    let result = clock.block_on(pipeline.call(down));
    assert_eq!(result, Err(Error::Operation(Down)));
    let heard = log.take();
    let stops: Vec<_> = heard
        .iter()
        .filter_map(|event| match *event {
            Event::RetryStopped {
                attempt,
                executed,
                stop,
                ..
            } => Some((attempt, executed, stop)),
            _ => None,
        })
        .collect();
    assert_eq!(stops, [(3, 2, StopReason::Rejected(Reason::CircuitOpen))]);
    assert_eq!(stops[0].2.as_str(), "circuit_open");
    let lines: Vec<_> = heard.iter().map(ToString::to_string).collect();
    let last = &lines[lines.len() - 2..];
    assert_eq!(
        last,
        [
            "retry: stopped after 2 attempts: rejected (circuit open)",
            "pipeline: failed after 2 attempts in 0ns",
        ]
    );

    // The first attempt is rejected.
    assert!(clock.block_on(pipeline.call(down)).is_err());
    let lines = log.lines();
    assert_eq!(
        lines[1..],
        [
            "retry: stopped after 0 attempts: rejected (circuit open)",
            "pipeline: rejected (circuit open) after 0 attempts in 0ns",
        ]
    );

    // A deadline from outside cuts the attempt off.
    let stack = (timeout(&clock, 20), retry, timeout(&clock, 50));
    let pipeline = Pipeline::new(stack).observer(log.clone());
    let hangs = pending::<Result<(), Fault>>;
    assert!(clock.block_on(pipeline.call(hangs)).is_err());
    let heard = log.lines();
    assert!(
        heard.contains(&"retry: stopped after 1 attempt: deadline".to_owned()),
        "{heard:?}"
    );
}

#[test]
fn a_retry_says_that_it_waits_for_a_rejection_to_pass() {
    let clock = ManualClock::new();
    let log = Log::default();
    let stack = (retry(&clock), full_bulkhead(&clock, |_: &Event| {}));
    let pipeline = Pipeline::new(stack).observer(log.clone());
    assert!(clock.block_on(pipeline.call(good)).is_err());
    assert_eq!(
        log.lines(),
        [
            "db: rejected a call: bulkhead full",
            "retry: attempt 1 rejected (bulkhead full), next in 100ms",
            "db: rejected a call: bulkhead full",
            "retry: attempt 2 rejected (bulkhead full), next in 200ms",
            "db: rejected a call: bulkhead full",
            "retry: stopped after 0 attempts: max attempts",
            "pipeline: rejected (bulkhead full) after 0 attempts in 300ms",
        ]
    );
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
