//! Circuit breakers: closed, with every rule, and open.
//!
//! Most rows are blocking calls, the only form that all fast peers have. Theirs is `call(closure)`; ours is the
//! permit API around the same closure ([`guarded`]), which does the same work: acquire, call, record, map the
//! error. Rows named `async` are async on all sides.

use std::hint::black_box;
use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, Trip};
use backstop::{CircuitBreaker, Error, FastClock, Policy};
use failsafe::backoff::Constant;
use failsafe::failure_policy::{ConsecutiveFailures, consecutive_failures};
use failsafe::{CircuitBreaker as _, Config, StateMachine, backoff, failure_policy};
use recloser::{AsyncRecloser, Recloser};
use tower::Layer;
use tower_resilience_circuitbreaker::{CircuitBreakerConfigBuilder, CircuitBreakerLayer};

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, blocking, future, leak, pending_once, ready, service};

const HOUR: Duration = Duration::from_secs(3600);
const WINDOW: Duration = Duration::from_secs(30);

pub fn rows() -> Vec<Row> {
    let consecutive = build(CircuitBreaker::builder().trip_on(Trip::consecutive(5)));
    let count = build(last_100());
    let dirty = build(last_100());
    let time = build(
        CircuitBreaker::builder()
            .trip_on(Trip::failure_rate(0.5).within(WINDOW))
            .trip_on(Trip::slow_rate(0.5).within(WINDOW))
            .slow_call(Duration::from_secs(1))
            .clock(FastClock::new()),
    );
    let open = build(last_100().clock(FastClock::new()));
    open.trip_for(HOUR);

    let mut rows = vec![];
    for (threads, of_failsafe, of_recloser, of_recloser_dirty, of_rate) in
        [(1, 0.05, 0.05, 0.5, 0.25), (2, 0.02, 0.02, 0.2, 0.12)]
    {
        rows.extend([
            Row::race(
                "breaker closed, consecutive failures",
                threads,
                of_failsafe,
                all_good("permit", |fails| guarded(consecutive, fails)),
                vec![all_good("failsafe", failsafe_consecutive())],
            ),
            Row::race(
                "breaker closed, last 100 calls, all good",
                threads,
                of_recloser,
                all_good("permit", |fails| guarded(count, fails)),
                vec![
                    all_good("recloser", recloser()),
                    all_good("failsafe rate", failsafe_rate()),
                ],
            )
            .against("recloser"),
            Row::race(
                "breaker closed, last 100 calls, 1 failure in 64",
                threads,
                of_recloser_dirty,
                one_in_64("permit", |fails| guarded(dirty, fails)),
                vec![
                    one_in_64("recloser", recloser()),
                    one_in_64("failsafe rate", failsafe_rate()),
                ],
            )
            .against("recloser"),
            Row::race(
                "breaker closed, time window + slow calls, fast clock",
                threads,
                of_rate,
                all_good("permit", |fails| guarded(time, fails)),
                // Without slow calls: no fast peer has them.
                vec![all_good("failsafe rate", failsafe_rate())],
            ),
            Row::race(
                "breaker open, reject, fast clock",
                threads,
                0.33,
                all_good("permit", |fails| guarded(open, fails)),
                open_peers(),
            )
            .against("recloser"),
        ]);
    }
    rows.extend(async_rows(consecutive, count, open));
    rows
}

/// The same through futures, and the allocations of the calls.
fn async_rows(
    consecutive: &'static CircuitBreaker,
    count: &'static CircuitBreaker,
    open: &'static CircuitBreaker,
) -> Vec<Row> {
    let mut rows = vec![];
    for (threads, of_failsafe, of_recloser) in [(1, 0.10, 0.20), (2, 0.05, 0.05)] {
        let failsafe = leak(failsafe_machine());
        let recloser = leak(AsyncRecloser::from(recloser_of_100()));
        rows.extend([
            Row::race(
                "breaker closed, consecutive failures, async",
                threads,
                of_failsafe,
                future("call", || consecutive.call(ready)),
                vec![
                    future("failsafe", || {
                        failsafe::futures::CircuitBreaker::call(failsafe, ready())
                    }),
                    tower_resilience(|builder| builder.consecutive_failures(5)),
                ],
            )
            .against("failsafe"),
            Row::race(
                "breaker closed, last 100 calls, all good, async",
                threads,
                of_recloser,
                future("call", || count.call(ready)),
                vec![
                    future("recloser", || recloser.call(ready())),
                    tower_resilience(|builder| builder.sliding_window_size(100)),
                ],
            )
            .against("recloser"),
        ]);
    }
    rows.extend([
        Row::no_allocations(
            "breaker closed, allocations",
            future("call", || count.call(pending_once)),
            vec![tower_resilience(|builder| builder.sliding_window_size(100))],
        ),
        Row::no_allocations(
            "breaker open, allocations",
            future("call", || open.call(pending_once)),
            open_peers(),
        ),
    ]);
    rows
}

fn build(builder: CircuitBreakerBuilder) -> &'static CircuitBreaker {
    leak(builder.build().expect("the settings are valid"))
}

fn last_100() -> CircuitBreakerBuilder {
    CircuitBreaker::builder().trip_on(Trip::failure_rate(0.5).of_last(100))
}

/// The operation of the blocking rows. The optimizer can inline it on all sides.
#[inline(always)]
fn operation(fails: bool) -> Result<u64, Failure> {
    if fails { Err(Failure) } else { Ok(1) }
}

/// Makes a blocking call through our breaker.
#[inline]
fn guarded(breaker: &CircuitBreaker, fails: bool) -> Result<u64, Error<Failure>> {
    let permit = breaker.try_acquire().map_err(Error::Rejected)?;
    let result = operation(fails);
    match &result {
        Ok(_) => permit.success(),
        Err(_) => permit.failure(),
    }
    result.map_err(Error::Operation)
}

/// Calls that never fail. Only the value is read, so that the sizes of the errors do not matter.
fn all_good<E>(
    name: &str,
    call: impl Fn(bool) -> Result<u64, E> + Send + Sync + 'static,
) -> Candidate {
    blocking(name, move || call(false).ok())
}

/// Calls of which every 64th fails, so that no window of 100 is ever clean. The last of 64 fails, because the
/// sampler starts with loops of one call, and consecutive failures would open the circuit.
fn one_in_64<E>(
    name: &str,
    call: impl Fn(bool) -> Result<u64, E> + Send + Sync + 'static,
) -> Candidate {
    Candidate::new(name, move |operations| {
        for index in 0..operations {
            black_box(call(index % 64 == 63).ok());
        }
    })
}

fn failsafe_machine() -> StateMachine<ConsecutiveFailures<Constant>, ()> {
    let policy = consecutive_failures(5, backoff::constant(HOUR));
    Config::new().failure_policy(policy).build()
}

fn failsafe_consecutive() -> impl Fn(bool) -> Result<u64, failsafe::Error<Failure>> {
    let breaker = failsafe_machine();
    move |fails| breaker.call(|| operation(fails))
}

/// failsafe's moving average over the same time.
fn failsafe_rate() -> impl Fn(bool) -> Result<u64, failsafe::Error<Failure>> {
    let policy =
        failure_policy::success_rate_over_time_window(0.5, 20, WINDOW, backoff::constant(HOUR));
    let breaker = Config::new().failure_policy(policy).build();
    move |fails| breaker.call(|| operation(fails))
}

fn recloser_of_100() -> Recloser {
    Recloser::custom()
        .error_rate(0.5)
        .closed_len(100)
        .open_wait(HOUR)
        .build()
}

fn recloser() -> impl Fn(bool) -> Result<u64, recloser::Error<Failure>> {
    let breaker = recloser_of_100();
    move |fails| breaker.call(|| operation(fails))
}

/// Peers that are open for an hour.
fn open_peers() -> Vec<Candidate> {
    let (recloser, failsafe) = (recloser(), failsafe_consecutive());
    for _ in 0..200 {
        let _ = (recloser(true), failsafe(true));
    }
    assert!(matches!(recloser(false), Err(recloser::Error::Rejected)));
    assert!(matches!(failsafe(false), Err(failsafe::Error::Rejected)));
    vec![
        all_good("recloser", recloser),
        all_good("failsafe", failsafe),
    ]
}

fn tower_resilience(
    configure: impl FnOnce(CircuitBreakerConfigBuilder) -> CircuitBreakerConfigBuilder,
) -> Candidate {
    let layer = configure(CircuitBreakerLayer::builder())
        .build()
        .expect("the settings are valid");
    let ready = tower::service_fn(|()| ready());
    service("tower-resilience", layer.layer(ready))
}
