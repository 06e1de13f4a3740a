//! What zero means to retries, hedges, budgets, timeouts, and single calls.

use std::cell::RefCell;
use std::time::Duration;

use backstop::dead_letter::NewLetter;
use backstop::hedge::HedgeBuilder;
use backstop::policy::ErrorClass;
use backstop::retry::RetryBuilder;
use backstop::{
    Backoff, Classify, Clock, DeadLetterQueue, Error, Hedge, Instant, ManualClock, Policy, Retry,
    RetryBudget, Stale, Standard, Timeout, Verdict,
};

use super::{SECOND, ZERO, ms};

/// Returns the number of attempts of a call whose attempts all fail with this verdict, and the time that it takes.
fn attempts(builder: RetryBuilder, verdict: Verdict) -> (u32, Duration) {
    let clock = ManualClock::new();
    let retry = builder.clock(clock.clone()).build().unwrap();
    let stack = (retry, Classify::errors(move |&(): &()| verdict));
    let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(()) }));
    (report.attempts, report.elapsed)
}

pub(super) fn any_hint_ends_the_call() {
    let hint = Verdict::throttled(SECOND);
    assert_eq!(attempts(Retry::builder().max_hint(ZERO), hint).0, 1);
    assert_eq!(attempts(Retry::builder(), hint).0, 3);
}

pub(super) fn retries_only_without_delay() {
    let retry = |backoff| Retry::builder().max_elapsed(ZERO).backoff(backoff);
    assert_eq!(attempts(retry(Backoff::NONE), Verdict::transient()).0, 3);
    assert_eq!(
        attempts(retry(Backoff::fixed(SECOND)), Verdict::transient()).0,
        1
    );
}

pub(super) fn retries_are_immediate() {
    let retry = Retry::builder().delay_with(|_| ZERO);
    assert_eq!(attempts(retry, Verdict::transient()), (3, ZERO));
}

/// Returns when each copy of a slow call starts.
fn starts(builder: HedgeBuilder) -> Vec<Duration> {
    let clock = ManualClock::new();
    let hedge = builder.clock(clock.clone()).build().unwrap();
    copies(&clock, &hedge)
}

fn copies(clock: &ManualClock, hedge: &Hedge) -> Vec<Duration> {
    let began = clock.now();
    let starts = RefCell::new(Vec::new());
    let call = hedge.call(|| async {
        starts
            .borrow_mut()
            .push(clock.now().saturating_duration_since(began));
        clock.sleep(SECOND).await;
        Ok::<_, ()>(())
    });
    clock.block_on(call).unwrap();
    starts.into_inner()
}

pub(super) fn copies_start_together() {
    assert_eq!(starts(Hedge::builder().after(ZERO)), [ZERO, ZERO]);
    assert_eq!(starts(Hedge::builder().after_with(|_| ZERO)), [ZERO, ZERO]);
    assert_eq!(starts(Hedge::builder().after(ms(5))), [ZERO, ms(5)]);
}

pub(super) fn there_is_no_least_delay() {
    let delay = |builder: HedgeBuilder| {
        let clock = ManualClock::new();
        let hedge = builder.quantile(0.5).clock(clock.clone()).build().unwrap();
        for _ in 0..30 {
            clock
                .block_on(hedge.call(|| async { Ok::<_, ()>(()) }))
                .unwrap();
        }
        hedge.snapshot().delay.unwrap()
    };
    assert!(delay(Hedge::builder().min_delay(ZERO)) < ms(1));
    assert_eq!(delay(Hedge::builder()), ms(1));
}

pub(super) fn there_is_no_pause() {
    let copies = |pause| {
        let clock = ManualClock::new();
        let hedge = Hedge::builder().after(ms(1)).throttled_pause(pause);
        let hedge = hedge.clock(clock.clone()).build().unwrap();
        let stack = (
            &hedge,
            Classify::errors(|&(): &()| Verdict::throttled(None)),
        );
        let _ = clock.block_on(stack.call(|| async { Err::<(), _>(()) }));
        copies(&clock, &hedge).len()
    };
    assert_eq!(copies(ZERO), 2);
    assert_eq!(copies(SECOND * 10), 1);
}

/// Returns the number of retries that a budget allows while so many calls are in flight.
fn allowed(budget: &RetryBudget, calls: usize) -> usize {
    let mut calls: Vec<_> = (0..calls).map(|_| budget.begin()).collect();
    calls[0].failure();
    let mut extras = Vec::new();
    while extras.len() < 2000 {
        match calls[0].withdraw(ErrorClass::Transient) {
            Some(extra) => extras.push(extra),
            None => break,
        }
    }
    extras.len()
}

pub(super) fn only_the_floor_is_left() {
    let percentage = || RetryBudget::percentage().clock(ManualClock::new());
    let of = |ratio, calls| allowed(&percentage().ratio(ratio).build().unwrap(), calls);
    assert_eq!(of(0.0, 1000), of(0.0, 1));
    assert!(of(0.2, 1000) > of(0.2, 1));
    let of = |ratio| allowed(&RetryBudget::in_flight().ratio(ratio).build().unwrap(), 100);
    assert_eq!((of(0.0), of(0.2)), (3, 20));
}

pub(super) fn there_is_no_floor() {
    let percentage = || RetryBudget::percentage().clock(ManualClock::new());
    let of = |floor| allowed(&percentage().floor(floor).build().unwrap(), 1);
    assert!(of(0) == 0 && of(10) > 0);
    let of = |floor| allowed(&RetryBudget::in_flight().floor(floor).build().unwrap(), 1);
    assert_eq!((of(0), of(3)), (0, 3));
}

pub(super) fn no_retry_is_paid() {
    let tokens = || RetryBudget::tokens().clock(ManualClock::new());
    assert_eq!(allowed(&tokens().capacity(0).build().unwrap(), 1), 0);
    assert_eq!(allowed(&tokens().initial(0).build().unwrap(), 1), 0);
    assert!(allowed(&tokens().build().unwrap(), 1) > 0);
}

pub(super) fn retries_are_free() {
    let tokens = RetryBudget::tokens().clock(ManualClock::new());
    let tokens = tokens.cost(ErrorClass::Transient, 0);
    assert_eq!(allowed(&tokens.build().unwrap(), 1), 2000);
}

pub(super) fn successes_add_nothing() {
    let of = |reward| {
        let tokens = RetryBudget::tokens().initial(0).reward(reward);
        let budget = tokens.clock(ManualClock::new()).build().unwrap();
        budget.begin().success();
        allowed(&budget, 1)
    };
    assert_eq!((of(0.0), of(14.0)), (0, 1));
}

pub(super) fn time_refills_nothing() {
    let of = |refill| {
        let clock = ManualClock::new();
        let tokens = RetryBudget::tokens().initial(0).refill_per_second(refill);
        let budget = tokens.clock(clock.clone()).build().unwrap();
        clock.advance(SECOND);
        allowed(&budget, 1)
    };
    assert_eq!((of(0.0), of(14.0)), (0, 1));
}

pub(super) fn only_ready_operations_succeed() {
    let clock = ManualClock::new();
    let builder = || Timeout::builder().clock(clock.clone());
    for builder in [builder().after(ZERO), builder().after_with(|_| ZERO)] {
        let timeout = builder.build().unwrap();
        assert!(
            clock
                .block_on(timeout.call(|| async { Ok::<_, ()>(()) }))
                .is_ok()
        );
        let slow = timeout.call(|| async {
            clock.sleep(ms(1)).await;
            Ok::<_, ()>(())
        });
        assert!(matches!(clock.block_on(slow), Err(Error::TimedOut(_))));
    }
    assert_eq!(clock.now(), Instant::ORIGIN);
}

pub(super) fn only_values_of_the_same_instant_are_returned() {
    let clock = ManualClock::new();
    let stale = Stale::builder().max_age(ZERO).clock(clock.clone());
    let stale = stale.build().unwrap();
    stale.set(1);
    assert!(stale.get().is_some());
    clock.advance(Duration::from_nanos(1));
    assert!(stale.get().is_none());
}

pub(super) fn no_text_is_kept() {
    let clock = ManualClock::new();
    let text = |bytes| {
        let queue = DeadLetterQueue::builder().max_error_bytes(bytes);
        let queue = queue.clock(clock.clone()).build().unwrap();
        let id = clock
            .block_on(queue.push(NewLetter::new(1).error("broken")))
            .unwrap();
        let letter = clock.block_on(queue.get(id)).unwrap().unwrap();
        letter.error().to_owned()
    };
    assert_eq!((text(0).as_str(), text(100).as_str()), ("", "broken"));
}

pub(super) fn a_stack_makes_no_retry() {
    let attempts = |ratio, floor| {
        let clock = ManualClock::new();
        let standard = Standard::builder().budget_share(ratio, floor);
        let standard = standard.clock(clock.clone()).build().unwrap();
        let call = standard.call_reported(|| async { Err::<(), _>(()) });
        clock.block_on(call).attempts
    };
    assert_eq!((attempts(0.0, 0), attempts(0.2, 10)), (1, 3));
}

#[cfg(feature = "chaos")]
pub(super) fn there_are_no_faults() {
    let clock = ManualClock::new();
    let builder = || {
        backstop::Chaos::builder()
            .clock(clock.clone())
            .max_share(1.0)
    };
    macro_rules! changes_nothing {
        ($($builder:expr),+) => {$(
            let chaos = $builder.build().unwrap();
            assert_eq!(clock.block_on(chaos.call(|| async { Ok::<u8, u8>(7) })), Ok(7));
            assert_eq!(chaos.snapshot().injected(), 0);
        )+};
    }
    changes_nothing!(
        builder().latency(0.0, ZERO),
        builder().behavior(0.0, || std::future::ready(())),
        builder().error(0.0, || 1_u8),
        builder().result(0.0, || Ok::<u8, u8>(1)),
        builder().error(1.0, || 1_u8).max_share(0.0)
    );
    let always = builder().error(1.0, || 1_u8).build().unwrap();
    assert!(
        clock
            .block_on(always.call(|| async { Ok::<u8, u8>(7) }))
            .is_err()
    );
    assert_eq!(clock.now(), Instant::ORIGIN);
}
