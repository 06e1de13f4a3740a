//! Subscribers that panic at every callback, operations that panic at each stage, and subscribers that change.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use backstop::tracing::{AttemptSpan, CallSpan, EventLog};
use backstop::{Bulkhead, Hedge, ManualClock, Pipeline, Policy, Quota, RateLimiter, Timeout};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::subscriber::Recorded;
use crate::{ms, retry};

thread_local! {
    /// Callbacks until the first one that panics, as all later ones do.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Panics at every callback from one on.
struct Broken;

fn tick() {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    assert_ne!(left, 0, "panic of the subscriber");
}

impl Subscriber for Broken {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        tick();
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        tick();
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        tick();
    }

    fn enter(&self, _: &Id) {
        tick();
    }

    fn exit(&self, _: &Id) {
        tick();
    }

    fn try_close(&self, _: Id) -> bool {
        tick();
        true
    }
}

/// A second panic while the first one unwinds would abort the process.
#[test]
fn a_subscriber_that_panics_from_some_callback_on_costs_no_permit() {
    let run = |panics_at: u64, polls: u32| {
        let clock = ManualClock::new();
        let bulkhead = Bulkhead::builder().max_concurrent(9).clock(clock.clone());
        let bulkhead = bulkhead.build().unwrap();
        let limiter = RateLimiter::builder().quota(Quota::per_hour(4));
        let limiter = limiter.clock(clock.clone()).build().unwrap();
        let hedge = Hedge::builder().after(ms(2)).clock(clock.clone());
        let stack = Pipeline::new((
            CallSpan::new("a"),
            retry(&clock),
            hedge.build().unwrap(),
            &bulkhead,
            &limiter,
            AttemptSpan::new("a"),
        ));
        let log = EventLog::new().clock(clock.clone());
        let stack = stack.observer(log);
        LEFT.set(panics_at);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut call = Box::pin(stack.call(|| async {
                clock.sleep(ms(5)).await;
                Err::<(), _>(())
            }));
            for _ in 0..polls {
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if polled.is_ready() {
                    return;
                }
                clock.advance(ms(1));
            }
        }));
        let left = LEFT.replace(u64::MAX);
        let seen = (bulkhead.snapshot().in_flight, clock.sleepers());
        assert_eq!(seen, (0, 0), "callback {panics_at}, {polls} polls");
        left
    };
    tracing::subscriber::with_default(Broken, || {
        for polls in [0, 1, 3, 7, 150] {
            for callback in 0.. {
                if run(callback, polls) > 0 {
                    break;
                }
                assert!(callback < 1000, "callbacks without an end");
            }
        }
    });
}

/// Panics in its drop.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        assert!(thread::panicking(), "panic of the drop");
    }
}

#[test]
fn spans_say_where_a_call_panicked() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let at_start = (CallSpan::new("start"), AttemptSpan::new("start"));
        let at_poll = (CallSpan::new("poll"), AttemptSpan::new("poll"));
        let at_drop = (CallSpan::new("drop"), AttemptSpan::new("drop"));
        let hedge = Hedge::builder().after(ms(2)).clock(clock.clone());
        let hedged = (
            CallSpan::new("h"),
            hedge.build().unwrap(),
            AttemptSpan::new("h"),
        );
        let panics = [
            catch_unwind(AssertUnwindSafe(|| {
                let call = at_start.call(|| -> std::future::Ready<Result<(), ()>> {
                    panic!("panic of the operation")
                });
                let _ = clock.block_on(call);
            })),
            catch_unwind(AssertUnwindSafe(|| {
                let call = at_poll.call(|| async {
                    clock.sleep(ms(1)).await;
                    panic!("panic of the operation");
                    #[allow(unreachable_code)]
                    Ok::<(), ()>(())
                });
                let _ = clock.block_on(call);
            })),
            catch_unwind(AssertUnwindSafe(|| {
                let mut call = Box::pin(at_drop.call(|| async {
                    let _kept = PanicsInDrop;
                    pending::<Result<(), ()>>().await
                }));
                assert!(poll(call.as_mut()).is_pending());
                drop(call);
            })),
            // The copy panics, and the first attempt is dropped.
            catch_unwind(AssertUnwindSafe(|| {
                let call = hedged.call_with(|attempt| async move {
                    assert!(!attempt.is_hedge(), "panic of the copy");
                    pending::<Result<(), ()>>().await
                });
                let _ = clock.block_on(call);
            })),
        ];
        assert!(panics.iter().all(Result::is_err));
    });
    let panicked = "outcome=panicked otel.status_code=ERROR";
    let attempt = "otel.name=attempt";
    assert_eq!(
        recorded.spans(),
        [
            "call{policy=start otel.name=start outcome=panicked attempts=1 otel.status_code=ERROR}"
                .to_owned(),
            format!("call > attempt{{policy=start attempt=1 hedge=false {attempt} {panicked}}}"),
            "call{policy=poll otel.name=poll outcome=panicked attempts=1 otel.status_code=ERROR}"
                .to_owned(),
            format!("call > attempt{{policy=poll attempt=1 hedge=false {attempt} {panicked}}}"),
            "call{policy=drop otel.name=drop outcome=cancelled attempts=1}".to_owned(),
            format!(
                "call > attempt{{policy=drop attempt=1 hedge=false {attempt} outcome=cancelled}}"
            ),
            "call{policy=h otel.name=h outcome=panicked attempts=2 otel.status_code=ERROR}"
                .to_owned(),
            format!("call > attempt{{policy=h attempt=1 hedge=false {attempt} outcome=cancelled}}"),
            format!("call > attempt{{policy=h attempt=1 hedge=true {attempt} {panicked}}}"),
        ]
    );
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts, for each span, how often it was entered and exited on each thread, and closed.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    next: u64,
    handles: BTreeMap<u64, i64>,
    faults: Vec<String>,
}

thread_local! {
    static ENTERED: RefCell<Vec<(usize, u64)>> = const { RefCell::new(Vec::new()) };
}

impl Counted {
    fn of(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    fn check(&self, spans: u64) {
        let counts = self.0.lock().unwrap();
        assert_eq!(counts.next, spans);
        assert!(counts.faults.is_empty(), "{:?}", counts.faults);
        assert!(
            counts.handles.values().all(|count| *count == 0),
            "{:?}",
            counts.handles
        );
    }
}

impl Subscriber for Counted {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        let mut counts = self.0.lock().unwrap();
        counts.next += 1;
        let id = counts.next;
        counts.handles.insert(id, 1);
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, _: &Record<'_>) {
        let mut counts = self.0.lock().unwrap();
        if counts.handles[&id.into_u64()] != 1 {
            counts.faults.push(format!("{id:?} recorded after its end"));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push((self.of(), id.into_u64())));
    }

    fn exit(&self, id: &Id) {
        let last = ENTERED.with_borrow_mut(Vec::pop);
        if last != Some((self.of(), id.into_u64())) {
            let fault = format!("{id:?} exited, {last:?} entered");
            self.0.lock().unwrap().faults.push(fault);
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        *self
            .0
            .lock()
            .unwrap()
            .handles
            .get_mut(&id.into_u64())
            .unwrap() += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut counts = self.0.lock().unwrap();
        let count = counts.handles.get_mut(&id.into_u64()).unwrap();
        *count -= 1;
        *count == 0
    }
}

#[test]
fn a_span_stays_with_its_subscriber_when_another_becomes_the_current_one() {
    let (first, second) = (Counted::default(), Counted::default());
    let clock = ManualClock::new();
    let stack = (CallSpan::new("a"), retry(&clock), AttemptSpan::new("a"));
    let mut call = Box::pin(stack.call(|| async {
        clock.sleep(ms(5)).await;
        Err::<(), _>(())
    }));
    tracing::subscriber::with_default(first.clone(), || {
        assert!(poll(call.as_mut()).is_pending());
    });
    clock.advance(ms(5));
    // Without a subscriber, and with another one, inside which the first one is current again.
    assert!(poll(call.as_mut()).is_pending());
    clock.advance(ms(100));
    tracing::subscriber::with_default(second.clone(), || {
        assert!(poll(call.as_mut()).is_pending());
        clock.advance(ms(5));
        tracing::subscriber::with_default(first.clone(), || {
            assert!(poll(call.as_mut()).is_pending());
        });
    });
    drop(call);
    first.check(2);
    second.check(1);
    assert!(ENTERED.take().is_empty());
}

#[test]
fn a_call_may_move_between_threads() {
    let subscriber = Counted::default();
    let clock = ManualClock::new();
    let timeout = Timeout::builder().after(ms(1000)).clock(clock.clone());
    let stack = (
        CallSpan::new("a"),
        timeout.build().unwrap(),
        AttemptSpan::new("a"),
    );
    let stack = Arc::new(stack);
    for polls in 0..3 {
        let (stack, time) = (stack.clone(), clock.clone());
        let clock = clock.clone();
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let operation = || async {
                for _ in 0..2 {
                    clock.sleep(ms(5)).await;
                }
                Ok::<_, ()>(())
            };
            stack.call(operation).await.unwrap();
        });
        for _ in 0..polls {
            let subscriber = subscriber.clone();
            call = thread::spawn(move || {
                let _guard = tracing::subscriber::set_default(subscriber);
                let _ = poll(call.as_mut());
                assert!(ENTERED.take().is_empty());
                call
            })
            .join()
            .unwrap();
            time.advance(ms(5));
        }
        thread::spawn(move || {
            drop(call);
            assert!(ENTERED.take().is_empty());
        })
        .join()
        .unwrap();
    }
    subscriber.check(4);
}
