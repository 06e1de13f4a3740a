//! Attempts: their number, their results, and the hooks that see them.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::policy::ErrorClass;
use backstop::{
    Backoff, Classify, Error, Jitter, ManualClock, Policy, Retry, RetryBudget, Timeout, Verdict,
};

use super::{doubling, elapsed, ms, s, total};

#[test]
fn waits_between_attempts_and_returns_the_last_error() {
    let clock = ManualClock::new();
    let retry = doubling(&clock).max_attempts(4).build().unwrap();
    let tries = Cell::new(0);
    let result: Result<(), _> = clock.block_on(retry.call(|| {
        tries.set(tries.get() + 1);
        let number = tries.get();
        async move { Err(number) }
    }));
    assert_eq!(result, Err(Error::Operation(4)));
    assert_eq!(elapsed(&clock), ms(700));
}

#[test]
fn a_retryable_value_is_retried_and_returned_as_a_value() {
    let clock = ManualClock::new();
    let stack = (
        doubling(&clock).build().unwrap(),
        Classify::by(|result: Result<&u16, &Error<()>>| match result {
            Ok(503) => Verdict::throttled(None),
            _ => Verdict::success(),
        }),
    );
    let report = clock.block_on(stack.call_reported(|| async { Ok(503) }));
    assert_eq!((report.result, report.attempts), (Ok(503), 3));
}

#[test]
fn an_attempt_that_has_ended_does_not_stand_in_the_way_of_the_next() {
    let clock = ManualClock::new();
    let one = RetryBudget::in_flight().ratio(0.0).floor(1);
    let budget = one.build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    // Each retry is the only one in flight while it lasts.
    assert_eq!(attempts_of!(&clock, &retry).len(), 3);
    assert_eq!(budget.snapshot().extras_in_flight, 0);
}

#[test]
fn hooks_see_the_attempt_its_verdict_and_its_delay() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    let retry = doubling(&clock)
        .delay_with(|retrying| match retrying.attempt() {
            1 => retrying.delay() * 3,
            _ => ms(7),
        })
        .on_retry(move |retrying| {
            let class = retrying.verdict().class();
            keep.lock()
                .unwrap()
                .push((retrying.attempt(), class, retrying.delay()));
        })
        .build()
        .unwrap();
    assert_eq!(attempts_of!(&clock, &retry), [ms(0), ms(300), ms(307)]);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (1, ErrorClass::Transient, ms(300)),
            (2, ErrorClass::Transient, ms(7))
        ]
    );
}

#[test]
fn attempts_are_numbered() {
    let clock = ManualClock::new();
    let stack = (doubling(&clock).build().unwrap(), total(&clock, s(1)));
    let seen = RefCell::new(Vec::new());
    let _ = clock.block_on(stack.call_with(|attempt| {
        seen.borrow_mut()
            .push((attempt.number(), attempt.is_hedge(), attempt.remaining()));
        async { Err::<(), _>(()) }
    }));
    let left = Some(s(1));
    assert_eq!(
        *seen.borrow(),
        [(1, false, left), (2, false, left), (3, false, left)]
    );
}

#[tokio::test(start_paused = true)]
async fn obeys_tokios_paused_time() {
    let start = tokio::time::Instant::now();
    let retry = Retry::builder()
        .backoff(Backoff::fixed(s(3600)).jitter(Jitter::None))
        .build()
        .unwrap();
    let report = retry.call_reported(|| async { Err::<(), _>("down") }).await;
    assert_eq!(report.attempts, 3);
    assert_eq!(report.elapsed, s(7200));
    assert_eq!(start.elapsed(), s(7200));
}

#[test]
fn works_without_a_runtime() {
    // Whatever its clock: inside `call_blocking` even tokio's parks the thread.
    for retry in [
        Retry::builder().clock(backstop::BlockingClock),
        Retry::builder(),
    ] {
        let retry = retry
            .backoff(Backoff::fixed(Duration::from_micros(1)).jitter(Jitter::None))
            .build()
            .unwrap();
        let tries = Cell::new(0);
        let result = (Timeout::after(s(3600)), retry).call_blocking(|| {
            tries.set(tries.get() + 1);
            if tries.get() < 3 {
                Err(())
            } else {
                Ok("hello")
            }
        });
        assert_eq!((result, tries.get()), (Ok("hello"), 3));
    }
}
