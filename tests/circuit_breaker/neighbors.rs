use std::cell::Cell;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use backstop::circuit_breaker::{State, Trip};
use backstop::{
    Backoff, CircuitBreaker, Classify, Error, Event, Hedge, ManualClock, Pipeline, Policy, Reason,
    Retry, Timeout, Verdict,
};

use super::{builder, one_probe, secs};

#[test]
fn a_breaker_inside_a_retry_counts_every_attempt_and_ends_the_retries() {
    let clock = ManualClock::new();
    let retry = || {
        Retry::builder()
            .max_attempts(5)
            .backoff(Backoff::NONE)
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(3))
        .build()
        .unwrap();
    let calls = Cell::new(0);
    let stack = (retry(), &breaker);
    let call = stack.call_reported(|| async {
        calls.set(calls.get() + 1);
        Err::<(), _>("down")
    });
    let report = clock.block_on(call);
    // Every attempt counts, and the open circuit ends the retries.
    assert_eq!((calls.get(), breaker.state()), (3, State::Open));
    assert_eq!(report.rejected().unwrap().reason(), Reason::CircuitOpen);
    assert_eq!(report.result.unwrap_err().into_operation(), Some("down"));

    assert_eq!(Pipeline::new((retry(), breaker.clone())).check(), []);
    let found = Pipeline::new((breaker, retry())).check();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn timeouts_inside_are_failures_and_timeouts_outside_do_not_count() {
    let clock = ManualClock::new();
    let timeout = || {
        let timeout = Timeout::builder().after(secs(1)).clock(clock.clone());
        timeout.build().unwrap()
    };
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let hang = pending::<Result<(), ()>>;
    let result = clock.block_on((timeout(), &breaker).call(hang));
    assert!(matches!(result, Err(Error::TimedOut(_))));
    assert_eq!(breaker.state(), State::Closed);
    let result = clock.block_on((&breaker, timeout()).call(hang));
    assert!(matches!(result, Err(Error::TimedOut(_))));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_classifier_inside_decides_what_counts() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let stack = (
        &breaker,
        Classify::errors(|status: &u16| match status {
            404 => Verdict::permanent(),
            499 => Verdict::ignore(),
            _ => Verdict::throttled(secs(30)),
        }),
    );
    for status in [404, 499] {
        let _ = clock.block_on(stack.call(|| async { Err::<(), u16>(status) }));
        assert_eq!(breaker.state(), State::Closed);
    }
    let _ = clock.block_on(stack.call(|| async { Err::<(), u16>(429) }));
    assert_eq!(breaker.snapshot().retry_after, Some(secs(30)));
}

#[test]
fn handles_are_send_and_sync_and_futures_are_send() {
    fn anywhere<T: Send + Sync + Unpin + 'static>() {}
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    anywhere::<CircuitBreaker>();
    anywhere::<backstop::circuit_breaker::Isolation>();
    anywhere::<backstop::circuit_breaker::Transitions>();
    anywhere::<backstop::circuit_breaker::Snapshot>();
    anywhere::<backstop::Keyed<String, CircuitBreaker>>();
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    drop(is_send(breaker.call(|| async { Ok::<(), ()>(()) })));
    drop(is_send(breaker.try_acquire().unwrap()));
    drop(is_send(
        breaker.check_with(secs(1), || async { Ok::<(), ()>(()) }),
    ));
}

#[test]
fn rejections_are_not_failures_and_an_open_circuit_runs_nothing() {
    let clock = ManualClock::new();
    let (inner, outer) = (
        one_probe(&clock),
        builder(&clock).trip_on(Trip::consecutive(1)),
    );
    let outer = outer.build().unwrap();
    inner.trip();
    let (runs, stack) = (Cell::new(0), (&outer, &inner));
    for _ in 0..10 {
        let call = stack.call(|| async {
            runs.set(runs.get() + 1);
            Ok::<_, ()>(())
        });
        let error = clock.block_on(call).unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CircuitOpen));
        assert_eq!(error.retry_after(), Some(secs(5)));
    }
    assert_eq!(runs.get(), 0);
    assert_eq!(outer.state(), State::Closed);
    assert_eq!(
        (
            inner.snapshot().rejected,
            inner.snapshot().consecutive_trips
        ),
        (10, 2)
    );
}

#[test]
fn in_shadow_mode_the_copy_of_a_call_counts_once_and_is_not_a_probe() {
    let clock = ManualClock::new();
    let events = Arc::new(AtomicU32::new(0));
    let heard = events.clone();
    let breaker = builder(&clock)
        .shadow(true)
        .observer(move |event: &Event| {
            if matches!(event, Event::WouldReject { .. }) {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
        .unwrap();
    let hedge = Hedge::builder().after(secs(1)).clock(clock.clone());
    let stack = (hedge.build().unwrap(), breaker.clone());
    let copies = Cell::new(0);
    let call = |during: fn(&CircuitBreaker)| {
        copies.set(0);
        let result = clock.block_on(stack.call(|| {
            copies.set(copies.get() + 1);
            let is_copy = copies.get() == 2;
            if !is_copy {
                during(&breaker);
            }
            let seen = breaker.snapshot();
            async move {
                match is_copy {
                    true => Ok::<_, ()>((seen.would_reject, seen.probes_in_flight)),
                    false => pending().await,
                }
            }
        }));
        (result.unwrap(), events.swap(0, Ordering::Relaxed))
    };
    breaker.trip();
    // The call and its copy.
    assert_eq!(call(|_| {}), ((2, 0), 2));
    breaker.close();
    assert_eq!(call(CircuitBreaker::half_open), ((1, 0), 1));
}
