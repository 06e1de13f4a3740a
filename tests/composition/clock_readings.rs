//! Layers share the readings of the clock: two for a call, however deep the stack.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::{
    CallOptions, Clock, ClockHandle, Event, Instant, ManualClock, Pipeline, Policy, Retry,
    RetryBudget, Sleep, Timeout,
};

use super::{Fault, classify, ms};

/// Counts how often it is read, and how many timers are asked of it.
#[derive(Clone, Debug, Default)]
struct Counting {
    readings: Arc<AtomicU32>,
    timers: Arc<AtomicU32>,
}

impl Clock for Counting {
    fn now(&self) -> Instant {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        Instant::from_nanos(u64::from(reading))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        self.timers.fetch_add(1, Ordering::Relaxed);
        Sleep::never()
    }
}

#[test]
fn a_successful_call_reads_the_clock_at_most_twice_at_any_depth() {
    let counting = Counting::default();
    let clock = ClockHandle::from(counting.clone());
    let minute = Duration::from_secs(60);
    let t = Timeout::builder()
        .after(minute)
        .clock(clock.clone())
        .build()
        .unwrap();
    let r = Retry::builder().clock(clock.clone()).build().unwrap();
    let budgets = [
        RetryBudget::percentage().clock(clock.clone()).build(),
        RetryBudget::tokens().build(),
        RetryBudget::grpc(10, 0.1).build(),
        RetryBudget::in_flight().build(),
    ];
    let [b, b2, b3, b4] = budgets.map(|budget| {
        let retry = Retry::builder().max_elapsed(minute).budget(budget.unwrap());
        retry.clock(clock.clone()).build().unwrap()
    });
    let c = classify();
    let o = Some(Arc::new(t.clone()));

    let check = |depth: u32, what: &str, most: u32| {
        let readings = counting.readings.swap(0, Ordering::Relaxed);
        assert!(
            readings <= most,
            "{what} at depth {depth}: {readings} readings"
        );
        assert_eq!(
            counting.timers.load(Ordering::Relaxed),
            0,
            "{what} at depth {depth}"
        );
    };
    let runner = ManualClock::new();
    macro_rules! at_every_depth {
        ($($policy:ident)*) => { at_every_depth!(@ 1, [] $($policy)*) };
        (@ $depth:expr, [$($outer:ident)*]) => {};
        (@ $depth:expr, [$($outer:ident)*] $next:ident $($rest:ident)*) => {
            let stack = Pipeline::new(($(&$outer,)* &$next,));
            let good = || async { Ok::<_, Fault>(()) };
            runner.block_on(stack.call(good)).unwrap();
            check($depth, "call", 1);
            runner.block_on(stack.call_reported(good)).result.unwrap();
            check($depth, "call_reported", 2);
            let within = stack.with(CallOptions::new().deadline(minute));
            runner.block_on(within.call(good)).unwrap();
            check($depth, "a call with a deadline", 1);
            let observed = stack.observer(|_: &Event| {});
            runner.block_on(observed.call_reported(good)).result.unwrap();
            check($depth, "an observed call", 2);
            at_every_depth!(@ $depth + 1, [$($outer)* $next] $($rest)*);
        };
    }
    at_every_depth!(t b r c o b2 t b3 o b4 r t);
}

#[test]
fn a_first_good_attempt_of_a_retry_reads_no_clock() {
    let counting = Counting::default();
    let retry = || Retry::builder().clock(counting.clone());
    let budget = RetryBudget::tokens().build().unwrap();
    let stack = (
        retry().build().unwrap(),
        retry().budget(budget).build().unwrap(),
    );
    let call = stack.call(|| async { Ok::<_, Fault>(()) });
    ManualClock::new().block_on(call).unwrap();
    assert_eq!(counting.readings.load(Ordering::Relaxed), 0);
}

#[test]
fn layers_that_share_a_clock_by_arc_share_its_readings() {
    let clock = Arc::new(Counting::default());
    let timeout = || {
        Timeout::builder()
            .after(ms(1))
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let stack = (timeout(), timeout(), timeout());
    ManualClock::new()
        .block_on(stack.call(|| async { Ok::<_, Fault>(()) }))
        .unwrap();
    assert_eq!(clock.readings.load(Ordering::Relaxed), 1);

    let shared: Arc<dyn Clock> = clock.clone();
    let timeout = || {
        Timeout::builder()
            .after(ms(1))
            .clock(shared.clone())
            .build()
            .unwrap()
    };
    let stack = (timeout(), timeout());
    ManualClock::new()
        .block_on(stack.call(|| async { Ok::<_, Fault>(()) }))
        .unwrap();
    assert_eq!(clock.readings.load(Ordering::Relaxed), 2);
}
