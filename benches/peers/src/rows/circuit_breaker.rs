//! Circuit breakers: closed, open and with now and then a failure.

use std::hint::black_box;
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::{Backoff, CircuitBreaker, FastClock, Policy};
use failsafe::futures::CircuitBreaker as _;
use failsafe::{backoff, failure_policy};
use recloser::{AsyncRecloser, Recloser};

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, future, leak, ready};

/// Long enough that no window of time ends while it is measured, and no break.
const LONG: Duration = Duration::from_secs(3600);

pub fn rows() -> Vec<Row> {
    let consecutive = || ours(Trip::consecutive(5), false);
    let counted = || ours(Trip::failure_rate(0.5).of_last(100), false);
    let timed = || {
        ours(
            Trip::failure_rate(0.5).within(Duration::from_secs(30)),
            true,
        )
    };
    let mut rows = Vec::new();
    for threads in [1, 2] {
        let target = |one, two| if threads == 1 { one } else { two };
        rows.extend([
            Row::race(
                "breaker closed, consecutive failures",
                threads,
                target(0.1, 0.05),
                sync("permit", consecutive(), 0),
                vec![failsafe_sync(consecutive_failsafe(), 0)],
            ),
            Row::race(
                "breaker closed, 100 calls, all good",
                threads,
                target(0.2, 0.05),
                sync("permit", counted(), 0),
                vec![recloser_sync(0)],
            ),
            Row::race(
                "breaker closed, 100 calls, 1 failure in 64",
                threads,
                target(0.5, 0.3),
                sync("permit", counted(), 64),
                vec![recloser_sync(64)],
            ),
            Row::race(
                "breaker closed, 50 calls, 1 failure in 64",
                threads,
                target(0.5, 0.3),
                sync(
                    "permit",
                    ours(Trip::failure_rate(0.5).of_last(50), false),
                    64,
                ),
                vec![recloser_sync(64)],
            ),
            Row::race(
                "breaker closed, 30 s and slow calls, fast clock",
                threads,
                target(0.35, 0.2),
                sync("permit", timed(), 0),
                vec![failsafe_sync(rate_failsafe(), 0)],
            ),
            Row::race(
                "breaker open, fast clock",
                threads,
                0.4,
                sync("permit", open(), 0),
                vec![recloser_open(), failsafe_open()],
            ),
        ]);
    }
    rows.extend(asynchronous());
    rows
}

/// The same around a future.
fn asynchronous() -> [Row; 3] {
    let consecutive = ours(Trip::consecutive(5), false);
    let counted = ours(Trip::failure_rate(0.5).of_last(100), false);
    let failsafe = leak(consecutive_failsafe());
    let recloser = leak(AsyncRecloser::from(
        Recloser::custom().closed_len(100).build(),
    ));
    let peers = || {
        vec![
            future("failsafe", || failsafe.call(ready())),
            future("recloser", || recloser.call(ready())),
        ]
    };
    [
        Row::race(
            "breaker closed, async, consecutive failures",
            1,
            0.1,
            future("policy", || consecutive.call(ready)),
            peers(),
        )
        .against("failsafe"),
        Row::race(
            "breaker closed, async, 100 calls, all good",
            1,
            0.2,
            future("policy", || counted.call(ready)),
            peers(),
        )
        .against("recloser"),
        Row::no_allocations(
            "breaker, allocations, closed",
            future("policy", || counted.call(ready)),
            peers(),
        ),
    ]
}

fn ours(trip: Trip, slow_calls: bool) -> &'static CircuitBreaker {
    let mut builder = CircuitBreaker::builder()
        .trip_on(trip)
        .clock(FastClock::new());
    if slow_calls {
        builder = builder.slow_call(LONG);
    }
    leak(builder.build().expect("the settings are sound"))
}

fn open() -> &'static CircuitBreaker {
    let builder = CircuitBreaker::builder()
        .break_for(Backoff::fixed(LONG).max(LONG))
        .clock(FastClock::new());
    let breaker = leak(builder.build().expect("the settings are sound"));
    breaker.trip();
    breaker
}

/// Does `call` over and over; it is told whether to fail, every so many calls, never for zero.
fn repeat(name: &str, every: u64, call: impl Fn(bool) + Send + Sync + 'static) -> Candidate {
    Candidate::new(name, move |operations| {
        for operation in 1..=operations {
            call(every != 0 && operation % every == 0);
        }
    })
}

fn sync(name: &str, breaker: &'static CircuitBreaker, every: u64) -> Candidate {
    repeat(name, every, move |fail| match breaker.try_acquire() {
        Ok(permit) => match black_box(operation(fail)) {
            Ok(_) => permit.success(),
            Err(_) => permit.failure(),
        },
        Err(rejected) => drop(black_box(rejected)),
    })
}

#[inline]
fn operation(fail: bool) -> Result<u64, Failure> {
    if fail { Err(Failure) } else { Ok(1) }
}

type Failsafe<P> = failsafe::StateMachine<P, ()>;

fn consecutive_failsafe() -> Failsafe<failure_policy::ConsecutiveFailures<backoff::Constant>> {
    let policy = failure_policy::consecutive_failures(5, backoff::constant(LONG));
    failsafe::Config::new().failure_policy(policy).build()
}

fn rate_failsafe() -> Failsafe<failure_policy::SuccessRateOverTimeWindow<backoff::Constant>> {
    let window = Duration::from_secs(30);
    let backoff = backoff::constant(LONG);
    let policy = failure_policy::success_rate_over_time_window(0.5, 20, window, backoff);
    failsafe::Config::new().failure_policy(policy).build()
}

fn failsafe_sync<P>(breaker: Failsafe<P>, every: u64) -> Candidate
where
    P: failure_policy::FailurePolicy + Send + 'static,
    Failsafe<P>: failsafe::CircuitBreaker + Send + Sync,
{
    repeat("failsafe", every, move |fail| {
        let _ = black_box(failsafe::CircuitBreaker::call(&breaker, || operation(fail)));
    })
}

fn failsafe_open() -> Candidate {
    let breaker = consecutive_failsafe();
    for _ in 0..5 {
        let _ = failsafe::CircuitBreaker::call(&breaker, || operation(true));
    }
    failsafe_sync(breaker, 0)
}

fn recloser_sync(every: u64) -> Candidate {
    let breaker = Recloser::custom().closed_len(100).build();
    recloser_candidate(breaker, every)
}

fn recloser_candidate(breaker: Recloser, every: u64) -> Candidate {
    repeat("recloser", every, move |fail| {
        let _ = black_box(breaker.call(|| operation(fail)));
    })
}

fn recloser_open() -> Candidate {
    let breaker = Recloser::custom().closed_len(1).open_wait(LONG).build();
    for _ in 0..3 {
        let _ = breaker.call(|| operation(true));
    }
    recloser_candidate(breaker, 0)
}
