//! What observers hear, and when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use backstop::hedge::HedgeEvent;
use backstop::{CallOptions, Pipeline, RetryBudget};

#[test]
fn a_call_with_copies_ends_in_one_event() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let hedge = hedge(&clock, 50).max_hedges(2).build().unwrap();
    let pipeline = Pipeline::new(hedge).observer(heard.observer());

    call!(&clock, &pipeline, [Good(10)]);
    assert!(heard.take().is_empty());

    call!(&clock, &pipeline, [Good(1000), Hang, Good(10)]);
    assert_eq!(
        heard.take(),
        [
            "hedge: launched copy 1 after 50ms: delay",
            "hedge: launched copy 2 after 100ms: delay",
            "hedge: copy 2 was faster",
        ]
    );
    call!(&clock, &pipeline, [Down(20), Good(10)]);
    assert_eq!(
        heard.take(),
        [
            "hedge: launched copy 1 after 20ms: failure",
            "hedge: copy 1 replaced a failure",
        ]
    );
    call!(&clock, &pipeline, [Good(60), Hang]);
    assert_eq!(
        heard.take(),
        [
            "hedge: launched copy 1 after 50ms: delay",
            "hedge: 1 copy in vain",
        ]
    );
    call!(&clock, &pipeline, [Down(0), Down(0), Down(0)]);
    assert_eq!(heard.take().last().unwrap(), "hedge: 2 copies in vain");
}

#[test]
fn a_copy_that_is_due_and_not_launched_says_why() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let empty = RetryBudget::tokens().capacity(0).build().unwrap();
    let without = hedge(&clock, 50).budget(empty).build().unwrap();
    let pipeline = Pipeline::new(without).observer(heard.observer());
    call!(&clock, &pipeline, [Good(60)]);
    assert_eq!(heard.take(), ["hedge: no copy: budget empty"]);

    let pipeline = Pipeline::new(hedge(&clock, 50).build().unwrap()).observer(heard.observer());
    let once = pipeline.with(CallOptions::new().idempotent(false));
    call!(&clock, &once, [Good(60)]);
    assert_eq!(heard.take(), ["hedge: no copy: not idempotent"]);
    let spent = pipeline.with(CallOptions::new().repeatable(false));
    call!(&clock, &spent, [Down(10)]);
    assert_eq!(heard.take(), ["hedge: no copy: not repeatable"]);

    let few = Hedge::builder().clock(clock.clone()).build().unwrap();
    let pipeline = Pipeline::new(few).observer(heard.observer());
    call!(&clock, &pipeline, [Down(10)]);
    assert_eq!(heard.take(), ["hedge: no copy: too few calls"]);
}

/// Counts copies while they exist.
struct Running(Arc<AtomicU32>);

impl Running {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn losers_are_dropped_before_anything_is_reported() {
    let (clock, running) = (ManualClock::new(), Arc::new(AtomicU32::new(0)));
    let hedge = hedge(&clock, 50).build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let (running, seen) = (running.clone(), seen.clone());
        move |event: &Event| {
            if let Event::Hedge { event, .. } = event {
                let now = running.load(Ordering::Relaxed);
                seen.lock().unwrap().push((event.kind(), now));
            }
        }
    };
    let pipeline = Pipeline::new(hedge).observer(observer);
    let number = Cell::new(0);
    for slow in [[1000, 10], [60, 1000]] {
        number.set(0);
        let result = clock.block_on(pipeline.call(|| {
            let copy = number.replace(number.get() + 1);
            let (running, clock) = (Running::new(&running), &clock);
            async move {
                let _running = running;
                clock.sleep(ms(slow[copy])).await;
                Ok::<_, ()>(())
            }
        }));
        assert_eq!(result, Ok(()));
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [
            ("hedge_launched", 2),
            ("hedge_won", 0),
            ("hedge_launched", 2),
            ("hedge_lost", 0)
        ]
    );
}

#[test]
fn a_copy_that_panics_ends_the_call_with_the_panic() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).build().unwrap();
    let (number, running) = (Cell::new(0), Arc::new(AtomicU32::new(0)));
    let call = || {
        let copy = number.replace(number.get() + 1);
        let (running, clock) = (Running::new(&running), &clock);
        async move {
            let _running = running;
            clock.sleep(ms(10)).await;
            assert_eq!(copy, 0, "boom");
            pending::<Result<(), ()>>().await
        }
    };
    let caught = catch_unwind(AssertUnwindSafe(|| clock.block_on(hedge.call(call))));
    assert!(caught.is_err());
    assert_eq!(running.load(Ordering::Relaxed), 0);
    assert_eq!((hedge.snapshot().in_flight, clock.sleepers()), (0, 0));
}

#[test]
fn an_observer_that_panics_leaves_no_copy_behind() {
    for kind in ["hedge_launched", "hedge_won"] {
        let clock = ManualClock::new();
        let hedge = hedge(&clock, 50).build().unwrap();
        let pipeline = Pipeline::new(hedge.clone()).observer(move |event: &Event| {
            assert_ne!(event.kind(), kind);
        });
        let caught = catch_unwind(AssertUnwindSafe(|| {
            call!(&clock, &pipeline, [Hang, Good(10)])
        }));
        assert!(caught.is_err());
        let seen = hedge.snapshot();
        assert_eq!((seen.launched, seen.in_flight), (1, 0));
        assert_eq!(clock.sleepers(), 0);
        assert_eq!(seen.won, u64::from(kind == "hedge_won"));
    }
}

#[test]
fn the_name_is_in_events_and_snapshots() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).name("replicas").build().unwrap();
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = names.clone();
    let pipeline = Pipeline::new(hedge.clone()).observer(move |event: &Event| {
        if let Event::Hedge {
            policy,
            event: HedgeEvent::Won { copy, .. },
            ..
        } = event
        {
            seen.lock().unwrap().push((*policy, *copy));
        }
    });
    call!(&clock, &pipeline, [Hang, Good(0)]);
    assert_eq!(*names.lock().unwrap(), [("replicas", 1)]);
    assert_eq!(
        (hedge.name(), hedge.snapshot().name),
        ("replicas", "replicas")
    );
    assert_eq!(hedge.max_hedges(), 1);
}

#[test]
fn copies_of_a_cancelled_call_are_lost() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    for hedge in [
        hedge(&clock, 50),
        Hedge::builder()
            .quantile(0.9)
            .min_calls(1)
            .clock(clock.clone()),
    ] {
        let hedge = hedge.build().unwrap();
        call!(&clock, &hedge, [Good(40)]);
        let stack = Pipeline::new((timeout(&clock, 200), &hedge)).observer(heard.observer());
        let seen = call!(&clock, &stack, [Hang, Hang]);
        assert!(seen.result.unwrap_err().is_timeout());
        let events = heard.take();
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[1], "hedge: 1 copy in vain");
        let seen = hedge.snapshot();
        assert_eq!((seen.launched, seen.lost, seen.in_flight), (1, 1, 0));
    }
}

#[test]
fn a_cut_call_reports_the_error_of_the_copy_that_failed() {
    let clock = ManualClock::new();
    let stack = (timeout(&clock, 1000), hedge(&clock, 50).build().unwrap());
    let copy = Cell::new(0);
    let report = clock.block_on(stack.call_reported(|| {
        let number = copy.replace(copy.get() + 1);
        async move {
            if number == 0 {
                pending::<()>().await;
            }
            Err::<(), _>(number)
        }
    }));
    assert!(report.result.as_ref().unwrap_err().is_timeout());
    assert_eq!(report.last_error, Some(1));
}
