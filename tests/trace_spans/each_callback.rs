//! A subscriber that panics once, at each of its callbacks in turn.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};

use backstop::tracing::{AttemptSpan, CallSpan};
use backstop::{Bulkhead, Hedge, ManualClock, Policy};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::{ms, retry};

thread_local! {
    /// Callbacks until the one that panics.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    /// Handles of spans that are not dropped yet, and the spans entered.
    static HANDLES: Cell<i64> = const { Cell::new(0) };
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(1) };
}

struct Once;

fn tick() {
    let left = LEFT.get();
    LEFT.set(left.wrapping_sub(1));
    assert_ne!(left, 0, "panic of the subscriber");
}

impl Subscriber for Once {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        tick();
        HANDLES.set(HANDLES.get() + 1);
        let id = NEXT.get();
        NEXT.set(id + 1);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        tick();
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, id: &Id) {
        tick();
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| assert_eq!(entered.pop(), Some(id.into_u64())));
        tick();
    }

    fn clone_span(&self, id: &Id) -> Id {
        tick();
        HANDLES.set(HANDLES.get() + 1);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        HANDLES.set(HANDLES.get() - 1);
        tick();
        false
    }
}

/// Runs a call whose attempts fail, with a copy of the second one, and drops it after `polls` polls. Returns how many
/// callbacks are left until one panics.
fn run(panics_at: u64, polls: u32, drops_by_panic: bool) -> u64 {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::builder().max_concurrent(9).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let hedge = Hedge::builder().after(ms(2)).clock(clock.clone());
    let stack = (
        CallSpan::new("a"),
        retry(&clock),
        hedge.build().unwrap(),
        &bulkhead,
        AttemptSpan::new("a"),
    );
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
        assert!(!drops_by_panic, "panic of the caller");
    }));
    let left = LEFT.replace(u64::MAX);
    let seen = (bulkhead.snapshot().in_flight, clock.sleepers());
    assert_eq!(seen, (0, 0), "callback {panics_at}, {polls} polls");
    assert_eq!(HANDLES.get(), 0, "callback {panics_at}, {polls} polls");
    let entered = ENTERED.take();
    assert!(entered.is_empty(), "callback {panics_at}, {polls} polls");
    left
}

#[test]
fn a_panic_in_any_callback_leaves_no_span_open_and_no_permit_taken() {
    tracing::subscriber::with_default(Once, || {
        for drops_by_panic in [false, true] {
            for polls in [0, 1, 3, 7, 200, 10_000] {
                for callback in 0.. {
                    // Reached by no callback: all of them have been tried.
                    if run(callback, polls, drops_by_panic) < u64::MAX / 2 {
                        break;
                    }
                    assert!(callback < 1000, "callbacks without an end");
                }
            }
        }
    });
}
