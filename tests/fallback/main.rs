//! Fallbacks and stale values, in virtual time.

mod stale;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{State, Trip};
use backstop::event::Ending;
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Classify, Error, Event, Fallback, ManualClock, Pipeline,
    Policy, Reason, Retry, Timeout, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Down,
    Forbidden,
}

fn verdict(fault: &Fault) -> Verdict {
    match fault {
        Fault::Down => Verdict::transient(),
        Fault::Forbidden => Verdict::permanent(),
    }
}

fn timeout(clock: &ManualClock, millis: u64) -> Timeout {
    let timeout = Timeout::builder().after(ms(millis)).clock(clock.clone());
    timeout.build().unwrap()
}

async fn down() -> Result<u64, Fault> {
    Err(Fault::Down)
}

async fn hang() -> Result<u64, Fault> {
    std::future::pending().await
}

#[test]
fn each_source_makes_a_value() {
    let clock = ManualClock::new();
    let value = Fallback::value(7);
    assert_eq!(clock.block_on(value.call(down)), Ok(7));
    assert_eq!(
        clock.block_on(value.call(|| async { Ok::<_, Fault>(1) })),
        Ok(1)
    );

    let with = Fallback::with(|error: &Error<Fault>| match error {
        Error::Operation(Fault::Down) => 8,
        _ => 9,
    });
    assert_eq!(clock.block_on(with.call(down)), Ok(8));
    let stack = (&with, timeout(&clock, 10));
    assert_eq!(clock.block_on(stack.call(hang)), Ok(9));

    let some = Fallback::try_with(|error: &Error<Fault>| error.is_timeout().then_some(10));
    assert_eq!(
        clock.block_on(some.call(down)),
        Err(Error::Operation(Fault::Down))
    );
    let stack = (&some, timeout(&clock, 10));
    assert_eq!(clock.block_on(stack.call(hang)), Ok(10));
    assert_eq!(
        (
            value.snapshot().used,
            with.snapshot().used,
            some.snapshot().used
        ),
        (1, 2, 1)
    );

    let other = Fallback::to(|_: &Error<Fault>| async {
        clock.sleep(ms(5)).await;
        Ok(11)
    });
    assert_eq!(clock.block_on(other.call(down)), Ok(11));
}

#[test]
fn the_callers_fault_passes_through_unless_asked_for() {
    let clock = ManualClock::new();
    let classify = Classify::errors(verdict);
    let forbidden = || async { Err::<u64, _>(Fault::Forbidden) };
    let usual = Fallback::value(7);
    let result = clock.block_on((&usual, &classify).call(forbidden));
    assert_eq!(result, Err(Error::Operation(Fault::Forbidden)));
    assert_eq!(usual.snapshot().used, 0);
    let asked = usual.on_permanent(true);
    assert_eq!(clock.block_on((&asked, &classify).call(forbidden)), Ok(7));
    // Alone, without the errors that blame the dependency.
    let only = asked.on_errors(false);
    assert_eq!(clock.block_on((&only, &classify).call(forbidden)), Ok(7));
    let down = || async { Err::<u64, _>(Fault::Down) };
    assert!(clock.block_on((&only, &classify).call(down)).is_err());
}

#[test]
fn each_kind_of_error_has_its_switch() {
    let clock = ManualClock::new();
    let full = Bulkhead::builder()
        .max_concurrent(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let held = full.try_acquire().unwrap();
    let limit = timeout(&clock, 10);
    let value = || Fallback::value(7);
    for (fallback, results) in [
        (value(), [Ok(7), Ok(7), Ok(7)]),
        (value().on_errors(false), [Err("failed"), Ok(7), Ok(7)]),
        (value().on_timeouts(false), [Ok(7), Err("timed out"), Ok(7)]),
        (
            value().on_rejections(false),
            [Ok(7), Ok(7), Err("rejected (bulkhead full)")],
        ),
    ] {
        let seen = [
            clock.block_on(fallback.call(down)),
            clock.block_on((&fallback, &limit).call(hang)),
            clock.block_on((&fallback, &full).call(down)),
        ];
        let seen = seen.map(|result| {
            let ending = Ending::of(&result).to_string();
            result.map_err(|_| ending)
        });
        assert_eq!(seen, results.map(|result| result.map_err(str::to_owned)));
    }
    drop(held);
    // A deadline from further out.
    let stack = (value(), &limit, timeout(&clock, 99));
    assert_eq!(clock.block_on(stack.call(hang)), Ok(7));
}

#[test]
fn retries_come_first_and_layers_outside_see_a_value_of_a_failed_call() {
    let clock = ManualClock::new();
    let retry = || {
        let retry = Retry::builder().backoff(Backoff::NONE).clock(clock.clone());
        retry.build().unwrap()
    };
    let attempts = Cell::new(0);
    let count = || {
        attempts.set(attempts.get() + 1);
        down()
    };
    assert_eq!(
        clock.block_on((Fallback::value(7), retry()).call(count)),
        Ok(7)
    );
    assert_eq!(attempts.replace(0), 3);
    // The other way round there is nothing to retry.
    assert_eq!(
        clock.block_on((retry(), Fallback::value(7)).call(count)),
        Ok(7)
    );
    assert_eq!(attempts.replace(0), 1);
    let found = Pipeline::new((retry(), Fallback::value(7))).check();
    assert_eq!(found.len(), 1, "{found:?}");

    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(2));
    let breaker = breaker.clock(clock.clone()).build().unwrap();
    for fallback in [true, false] {
        let to = Fallback::to(|_: &Error<Fault>| async { Ok(7) });
        let result = match fallback {
            true => clock.block_on((&breaker, Fallback::value(7)).call(down)),
            false => clock.block_on((&breaker, to).call(down)),
        };
        assert_eq!(result, Ok(7));
    }
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn the_error_of_the_other_operation_is_returned_and_the_first_one_reported() {
    let clock = ManualClock::new();
    let other = Fallback::to(|_: &Error<&str>| async { Err("the mirror is down too") });
    let report = clock.block_on(other.call_reported(|| async { Err::<(), _>("down") }));
    assert_eq!(
        report.result,
        Err(Error::Operation("the mirror is down too"))
    );
    assert_eq!((report.attempts, report.last_error), (1, Some("down")));
    let report =
        clock.block_on(Fallback::value(()).call_reported(|| async { Err::<(), _>("down") }));
    assert_eq!((report.result, report.last_error), (Ok(()), Some("down")));
}

#[test]
fn a_slow_fallback_of_one_call_does_not_block_another() {
    let clock = ManualClock::new();
    let number = Cell::new(0);
    let other = Fallback::to(|_: &Error<Fault>| {
        let slow = number.replace(number.get() + 1) == 0;
        let clock = &clock;
        async move {
            clock.sleep(if slow { ms(1000) } else { ms(1) }).await;
            Ok(7)
        }
    });
    clock.block_on(async {
        let slow = std::pin::pin!(other.call(down));
        let fast = std::pin::pin!(other.call(down));
        let both = futures::future::select(slow, fast).await;
        assert!(matches!(both, futures::future::Either::Right((Ok(7), _))));
    });
}

#[test]
fn the_operation_is_dropped_before_it_is_replaced() {
    struct Held<'a>(&'a Cell<bool>);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.set(false);
        }
    }
    let (clock, running) = (ManualClock::new(), Cell::new(false));
    let with = Fallback::with(|_: &Error<()>| running.get());
    let result = clock.block_on(with.call(|| {
        running.set(true);
        let held = Held(&running);
        let mut polled = Some(held);
        // The future holds it until it is dropped.
        std::future::poll_fn(move |_| {
            assert!(polled.as_mut().is_some());
            std::task::Poll::Ready(Err::<bool, _>(()))
        })
    }));
    assert_eq!(result, Ok(false));
}

#[test]
fn an_observer_gets_an_event_for_each_use() {
    let (clock, heard) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let observer = {
        let heard = heard.clone();
        move |event: &Event| heard.lock().unwrap().push(event.to_string())
    };
    let stack = (
        Fallback::value(7).with_name("defaults"),
        timeout(&clock, 10),
    );
    let pipeline = Pipeline::new(stack).observer(observer);
    assert_eq!(clock.block_on(pipeline.call(down)), Ok(7));
    assert_eq!(clock.block_on(pipeline.call(hang)), Ok(7));
    let heard = heard.lock().unwrap();
    let of_fallback: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("defaults"))
        .collect();
    assert_eq!(
        of_fallback,
        [
            "defaults: replaced the result of a call that failed",
            "defaults: replaced the result of a call that timed out",
        ]
    );
}

#[test]
fn a_panic_in_a_source_propagates_and_leaves_the_fallback_as_it_was() {
    let clock = ManualClock::new();
    let panics = Cell::new(true);
    let with = Fallback::with(|_: &Error<Fault>| {
        assert!(!panics.get(), "boom");
        7
    });
    let caught = catch_unwind(AssertUnwindSafe(|| clock.block_on(with.call(down))));
    assert!(caught.is_err());
    panics.set(false);
    assert_eq!(clock.block_on(with.call(down)), Ok(7));
    assert_eq!(with.snapshot().used, 1);
}

#[test]
fn a_rejection_is_told_by_its_reason() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip();
    let by_reason = Fallback::try_with(|error: &Error<Fault>| {
        (error.reason() == Some(Reason::CircuitOpen)).then_some(7)
    });
    assert_eq!(clock.block_on((by_reason, breaker).call(down)), Ok(7));
}
