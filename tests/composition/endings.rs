//! What ends an operation drops it before anything is released, recorded or reported; and a cut by a deadline
//! is that of the policy that set it.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use backstop::bulkhead::limit::Aimd;
use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::event::StopReason;
use backstop::policy::{Guard, Guarded};
use backstop::{
    Backoff, Bulkhead, CallOptions, CircuitBreaker, Context, Error, Event, Jitter, ManualClock,
    Outcome, Pipeline, Policy, Rejected, Retry, Throttle, TimedOut, Timeout,
};

use super::{Fault, ms, retry, timeout};

/// Calls a closure when it is dropped, as a session that closes.
struct Session<F: FnMut()>(F);

impl<F: FnMut()> Drop for Session<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Holds what it holds until it is dropped, also when it is ready. Without a result it is never.
struct Holds<T, S> {
    result: Option<T>,
    _session: S,
}

impl<T: Unpin, S: Unpin> Future for Holds<T, S> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<T> {
        self.result.take().map_or(Poll::Pending, Poll::Ready)
    }
}

fn bulkhead_of_one(clock: &ManualClock) -> Bulkhead {
    let bulkhead = Bulkhead::builder().max_concurrent(1).clock(clock.clone());
    bulkhead.build().unwrap()
}

/// A breaker that waits for its only probe.
fn half_open(clock: &ManualClock) -> CircuitBreaker {
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .permitted_calls(1)
        .clock(clock.clone());
    let breaker = breaker.build().unwrap();
    breaker.half_open();
    breaker
}

#[test]
fn a_permit_comes_back_only_after_the_cut_off_operation_is_dropped() {
    let clock = ManualClock::new();
    let bulkhead = bulkhead_of_one(&clock);
    let admitted = RefCell::new(Vec::new());
    let hang = || async {
        let _session = Session(|| admitted.borrow_mut().push(bulkhead.try_acquire().is_ok()));
        pending::<Result<(), Fault>>().await
    };
    let stack = (&bulkhead, timeout(&clock, 50));
    assert!(clock.block_on(stack.call(hang)).is_err());
    // And of an operation that is ready, but not dropped yet.
    let hold = || Holds {
        result: Some(Ok::<_, Fault>(())),
        _session: Session(|| admitted.borrow_mut().push(bulkhead.try_acquire().is_ok())),
    };
    assert!(clock.block_on(bulkhead.call(hold)).is_ok());
    assert_eq!(*admitted.borrow(), [false; 2]);
    assert!(bulkhead.try_acquire().is_ok());
}

#[test]
fn an_adaptive_bulkhead_of_one_never_sees_two_inside() {
    let clock = ManualClock::new();
    let limit = Aimd::builder().initial(1).max(1).build().unwrap();
    let bulkhead = Bulkhead::builder().adaptive(limit).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let admitted = Cell::new(None);
    let hold = || Holds {
        result: Some(Err::<(), _>(Fault::Down)),
        _session: Session(|| admitted.set(Some(bulkhead.try_acquire().is_ok()))),
    };
    assert!(clock.block_on(bulkhead.call(hold)).is_err());
    assert_eq!(admitted.get(), Some(false));
}

#[test]
fn a_probe_ends_only_after_the_cut_off_operation_is_dropped() {
    let clock = ManualClock::new();
    let breaker = half_open(&clock);
    let seen = RefCell::new(Vec::new());
    let look = || {
        let probes = breaker.snapshot().probes_in_flight;
        seen.borrow_mut()
            .push((probes, breaker.try_acquire().is_ok()));
    };
    let stack = (&breaker, timeout(&clock, 50));
    let hang = || async {
        let _session = Session(look);
        pending::<Result<(), Fault>>().await
    };
    assert!(clock.block_on(stack.call(hang)).is_err());
    assert_eq!(breaker.state(), State::Open);
    breaker.half_open();
    let hold = || Holds {
        result: Some(Ok::<_, Fault>(())),
        _session: Session(look),
    };
    assert!(clock.block_on(breaker.call(hold)).is_ok());
    assert_eq!(*seen.borrow(), [(1, false); 2]);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_throttle_and_a_guard_record_after_the_drop() {
    struct Log<'a>(&'a RefCell<Vec<&'static str>>);
    impl Guard for Log<'_> {
        type Permit = ();
        fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
            Ok(())
        }
        fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {
            self.0.borrow_mut().push("exit");
        }
    }
    let (clock, log) = (ManualClock::new(), RefCell::new(Vec::new()));
    let throttle = Throttle::builder().clock(clock.clone()).build().unwrap();
    let stack = (&throttle, Guarded(Log(&log)));
    let accepts = Cell::new(99);
    let hold = || Holds {
        result: Some(Ok::<_, Fault>(())),
        _session: Session(|| {
            accepts.set(throttle.snapshot().accepts);
            log.borrow_mut().push("drop");
        }),
    };
    assert!(clock.block_on(stack.call(hold)).is_ok());
    assert_eq!((accepts.get(), throttle.snapshot().accepts), (0, 1));
    assert_eq!(*log.borrow(), ["drop", "exit"]);
}

#[test]
fn hooks_and_observers_can_lock_what_the_attempt_had_locked() {
    let clock = ManualClock::new();
    let (lock, seen) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
    let look = |what: &'static str| {
        let (lock, seen) = (lock.clone(), seen.clone());
        move || seen.lock().unwrap().push((what, lock.try_lock().is_ok()))
    };
    let (hook, observed, told) = (look("hook"), look("event"), look("notify"));
    let retry = Retry::builder()
        .max_attempts(2)
        .backoff(Backoff::NONE)
        .on_retry(move |_| hook())
        .clock(clock.clone());
    let retry = retry.build().unwrap();
    let stack = (
        retry.notify(move |_: &Error<Fault>, _| told()),
        timeout(&clock, 50),
    );
    let pipeline = Pipeline::new(stack).observer(move |_: &Event| observed());
    // Cut off, and then ready but not dropped yet.
    let first = Cell::new(true);
    let call = pipeline.call(|| {
        let hangs = first.replace(false);
        Holds {
            result: (!hangs).then_some(Err::<(), _>(Fault::Down)),
            _session: lock.lock().unwrap(),
        }
    });
    assert_eq!(clock.block_on(call), Err(Error::Operation(Fault::Down)));
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(_, free)| *free), "{seen:?}");
    for what in ["hook", "event", "notify"] {
        assert!(seen.iter().any(|(seen, _)| *seen == what), "{what}");
    }
}

#[test]
fn a_failed_attempt_is_dropped_before_the_wait_and_the_budget() {
    let clock = ManualClock::new();
    let open = Cell::new(0);
    let retry = retry(&clock);
    let call = retry.call(|| {
        assert_eq!(open.get(), 0, "the one before is still there");
        open.set(open.get() + 1);
        Holds {
            result: Some(Err::<(), _>(Fault::Down)),
            _session: Session(|| open.set(open.get() - 1)),
        }
    });
    let mut call = std::pin::pin!(call);
    let mut task = TaskContext::from_waker(std::task::Waker::noop());
    assert!(call.as_mut().poll(&mut task).is_pending());
    assert_eq!((open.get(), clock.sleepers()), (0, 1));
    assert!(clock.block_on(call).is_err());
}

// ===== Deadlines from outside =====

fn named(clock: &ManualClock, name: &'static str, millis: u64) -> Timeout {
    let timeout = Timeout::builder().name(name).after(ms(millis));
    timeout.clock(clock.clone()).build().unwrap()
}

#[test]
fn a_timeout_is_that_of_the_policy_whose_limit_it_was() {
    let hang = pending::<Result<(), Fault>>;
    let table = [
        (100, 200, "total", 100),
        (200, 100, "attempt", 100),
        // Both at once: each gave the operation that much, and the inner one is asked first.
        (100, 100, "attempt", 100),
    ];
    for (total, attempt, policy, limit) in table {
        let clock = ManualClock::new();
        let stack = (
            named(&clock, "total", total),
            named(&clock, "attempt", attempt),
        );
        let expected = Err(TimedOut::new(policy, ms(limit)).into());
        assert_eq!(clock.block_on(stack.call(hang)), expected);
    }
    // Through several layers, with what is left of the time in the middle.
    let clock = ManualClock::new();
    let stack = (
        named(&clock, "total", 150),
        retry(&clock),
        named(&clock, "attempt", 100),
        named(&clock, "inner", 1000),
    );
    let attempts = Cell::new(0);
    let call = stack.call(|| {
        attempts.set(attempts.get() + 1);
        let first = attempts.get() == 1;
        async move {
            match first {
                true => Err(Fault::Down),
                false => pending().await,
            }
        }
    });
    let total: Error<Fault> = TimedOut::new("total", ms(150)).into();
    assert_eq!(clock.block_on(call), Err::<(), _>(total));
    // The options of a call are the pipeline's.
    let clock = ManualClock::new();
    let pipeline = Pipeline::new(named(&clock, "attempt", 1000)).with_name("github");
    let with = pipeline.with(CallOptions::new().deadline(ms(70)));
    let expected = Err(TimedOut::new("github", ms(70)).into());
    assert_eq!(clock.block_on(with.call(hang)), expected);
    let around = Pipeline::new(()).with_name("github");
    let with = around.with(CallOptions::new().deadline(ms(70)));
    let around = with.around(named(&clock, "attempt", 1000));
    assert_eq!(clock.block_on(around.call(hang)), expected);
}

#[test]
fn a_cut_by_a_deadline_from_outside_says_nothing_about_the_dependency() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let throttle = Throttle::builder().clock(clock.clone()).build().unwrap();
    let limit = Aimd::builder().initial(10).max(10).build().unwrap();
    let bulkhead = Bulkhead::builder().adaptive(limit).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let stops = Arc::new(Mutex::new(Vec::new()));
    let keep = stops.clone();
    let stack = |total: u64, attempt: u64| {
        let keep = keep.clone();
        let stack = (
            named(&clock, "total", total),
            retry(&clock),
            &breaker,
            &throttle,
            &bulkhead,
            named(&clock, "attempt", attempt),
        );
        Pipeline::new(stack).observer(move |event: &Event| match event {
            Event::RetryStopped { stop, .. } => keep.lock().unwrap().push(*stop),
            Event::TimedOut { policy, .. } => assert_ne!(*policy, "attempt"),
            _ => {}
        })
    };
    let outer = stack(50, 1000);
    let report = clock.block_on(outer.call_reported(pending::<Result<(), Fault>>));
    assert_eq!((report.attempts, report.elapsed), (1, ms(50)));
    assert!(report.result.unwrap_err().is_timeout());
    assert_eq!(*stops.lock().unwrap(), [StopReason::Deadline]);
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(throttle.snapshot().failures, 0);
    assert_eq!(bulkhead.limit(), 10);
}

#[test]
fn a_timeout_of_its_own_is_a_failure_of_the_dependency() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let stack = (
        &breaker,
        named(&clock, "outer", 50),
        named(&clock, "inner", 1000),
    );
    let result = clock.block_on(stack.call(pending::<Result<(), Fault>>));
    assert_eq!(result, Err(TimedOut::new("outer", ms(50)).into()));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn the_pause_of_a_backoff_still_counts_towards_the_total() {
    let clock = ManualClock::new();
    let fixed = Backoff::fixed(ms(30)).jitter(Jitter::None);
    let retry = Retry::builder()
        .max_attempts(99)
        .backoff(fixed)
        .clock(clock.clone());
    let stack = (named(&clock, "total", 100), retry.build().unwrap());
    let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(Fault::Down) }));
    assert_eq!((report.attempts, report.elapsed), (4, ms(90)));
    assert_eq!(report.result, Err(Error::Operation(Fault::Down)));
    assert_eq!(report.last_error, Some(Fault::Down));
}

#[test]
fn a_panic_of_the_calls_observer_propagates_after_the_handles_observer_has_received_the_event() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(0));
    let count = heard.clone();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .observer(move |_: &Event| *count.lock().unwrap() += 1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let pipeline = Pipeline::new((bulkhead.clone(),)).observer(|event: &Event| {
        if matches!(event, Event::Rejected { .. }) {
            resume_unwind(Box::new("part of the test"));
        }
    });
    let _permit = bulkhead.try_acquire().unwrap();
    let call = || clock.block_on(pipeline.call(|| async { Ok::<_, ()>(()) }));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(*heard.lock().unwrap(), 1);
}
