//! Subscribers that panic.

use std::cell::Cell;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};

use backstop::tracing::{AttemptSpan, CallSpan, EventLog, level};
use backstop::{Bulkhead, Event, ManualClock, Observer, Policy, Quota, RateLimiter};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::subscriber::Recorded;
use crate::{ms, retry};

thread_local! {
    /// The method that panics now.
    static PANICS_AT: Cell<&'static str> = const { Cell::new("") };
}

struct Panicking;

fn at(method: &'static str) {
    assert_ne!(PANICS_AT.get(), method, "panic of the subscriber");
}

impl Subscriber for Panicking {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        at("new_span");
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        at("record");
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        at("event");
    }

    fn enter(&self, _: &Id) {
        at("enter");
    }

    fn exit(&self, _: &Id) {
        at("exit");
    }

    fn try_close(&self, _: Id) -> bool {
        at("try_close");
        true
    }
}

const METHODS: [&str; 6] = ["new_span", "record", "event", "enter", "exit", "try_close"];

fn bulkhead(clock: &ManualClock) -> Bulkhead {
    let bulkhead = Bulkhead::builder().max_concurrent(1);
    bulkhead.clock(clock.clone()).build().unwrap()
}

/// Runs `code` while this method of the subscriber panics. Returns the text of a panic.
fn during(method: &'static str, code: impl FnOnce()) -> Option<String> {
    PANICS_AT.set(method);
    let result = catch_unwind(AssertUnwindSafe(code));
    PANICS_AT.set("");
    let panic = result.err()?;
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
}

#[test]
fn a_subscriber_that_panics_while_a_call_is_dropped_costs_no_permit() {
    tracing::subscriber::with_default(Panicking, || {
        for method in METHODS {
            let clock = ManualClock::new();
            let bulkhead = bulkhead(&clock);
            let stack = (CallSpan::new("a"), &bulkhead, AttemptSpan::new("a"));
            let mut call = Box::pin(stack.call(pending::<Result<(), ()>>));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert_eq!(bulkhead.snapshot().in_flight, 1);

            let panic = during(method, || drop(call));
            assert_eq!(
                panic.is_some(),
                ["record", "enter", "exit", "try_close"].contains(&method),
                "{method}"
            );
            assert_eq!(bulkhead.snapshot().in_flight, 0, "{method}");
        }
    });
}

#[test]
fn a_subscriber_that_panics_while_a_call_runs_costs_no_permit() {
    tracing::subscriber::with_default(Panicking, || {
        for method in METHODS {
            let clock = ManualClock::new();
            let bulkhead = bulkhead(&clock);
            let stack = (CallSpan::new("a"), &bulkhead, AttemptSpan::new("a"));
            during(method, || {
                clock
                    .block_on(stack.call(|| async { Ok::<_, ()>(()) }))
                    .unwrap();
            });
            assert_eq!(bulkhead.snapshot().in_flight, 0, "{method}");
        }
    });
}

/// A second panic while the first one unwinds would abort the process.
#[test]
fn the_panic_of_an_operation_survives_a_subscriber_that_panics_too() {
    tracing::subscriber::with_default(Panicking, || {
        for method in METHODS {
            let clock = ManualClock::new();
            let bulkhead = bulkhead(&clock);
            let stack = (CallSpan::new("a"), &bulkhead, AttemptSpan::new("a"));
            let panic = during("", || {
                let call = pin!(stack.call(|| async {
                    PANICS_AT.set(method);
                    panic!("panic of the operation");
                    #[allow(unreachable_code)]
                    Ok::<(), ()>(())
                }));
                clock.block_on(call).unwrap();
            });
            assert_eq!(panic.as_deref(), Some("panic of the operation"), "{method}");
            assert_eq!(bulkhead.snapshot().in_flight, 0, "{method}");
        }
    });
}

#[test]
fn a_panic_in_one_summary_loses_no_other() {
    Recorded::during(|| {
        let clock = ManualClock::new();
        // The first summary panics.
        let log = EventLog::new().level(|event| {
            let panics = PANICS_AT.replace("") == "level";
            assert!(!panics, "panic of the level");
            level(event)
        });
        let log = log.clock(clock.clone());
        let limiters = ["a", "b", "c"].map(|name| {
            let limiter = RateLimiter::builder().quota(Quota::per_hour(1)).name(name);
            let limiter = limiter.observer(log.clone()).clock(clock.clone());
            limiter.build().unwrap()
        });
        let reject = || {
            for limiter in &limiters {
                let _ = limiter.try_acquire();
                limiter.try_acquire().unwrap_err();
                limiter.try_acquire().unwrap_err();
            }
        };
        reject();
        clock.advance(ms(1000));
        let (end, before) = (finished(), Recorded::count());
        assert!(during("level", || log.on_event(&end)).is_some());
        assert_eq!(Recorded::count() - before, 2, "when they are due");

        reject();
        let before = Recorded::count();
        assert!(during("level", || log.flush()).is_some());
        assert_eq!(Recorded::count() - before, 2, "when they are flushed");
    });
}

/// An event that is not a rejection.
fn finished() -> Event {
    let last = std::sync::Arc::new(std::sync::Mutex::new(None));
    let kept = last.clone();
    let clock = ManualClock::new();
    let pipeline = backstop::Pipeline::new(retry(&clock))
        .observer(move |event: &Event| *kept.lock().unwrap() = Some(*event));
    clock
        .block_on(pipeline.call(|| async { Ok::<_, ()>(()) }))
        .unwrap();
    last.lock()
        .unwrap()
        .take()
        .expect("every call ends in an event")
}
