//! Retries whose first attempt succeeds.

use std::future::{Ready, ready as ready_future};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use backstop::{FastClock, Policy, Retry};
use tokio_retry::strategy::ExponentialBackoff;
use tower::{Layer, Service};
use tower_resilience_retry::RetryLayer;

use super::{Row, Target};
use crate::measure::Candidate;
use crate::work::{Failure, future, leak, pending_once, ready, service};

pub fn rows() -> Vec<Row> {
    let retry = leak(Retry::builder().build().expect("the defaults are valid"));
    let fast_clock = Retry::builder().clock(FastClock::new()).build();
    let fast_clock = leak(fast_clock.expect("the defaults are valid"));
    vec![
        Row::race(
            "retry, first attempt good, ready, excess over the operation",
            1,
            1.0,
            future("tokio clock", || retry.call(ready)),
            peers_ready(),
        )
        .excess_over(future("operation", ready))
        .against("backon"),
        Row::race(
            "retry, first attempt good, pending once, excess over the operation",
            1,
            1.0,
            future("tokio clock", || retry.call(pending_once)),
            peers_pending(),
        )
        .excess_over(future("operation", pending_once))
        .against("backon"),
        Row::race(
            "retry, fast clock, pending once, excess over the operation",
            1,
            1.0,
            future("fast clock", || fast_clock.call(pending_once)),
            peers_pending(),
        )
        .excess_over(future("operation", pending_once))
        .against("backon"),
        Row::no_allocations(
            "retry, allocations, first attempt good",
            future("tokio clock", || retry.call(pending_once)),
            peers_pending(),
        ),
        future_size(retry),
    ]
}

fn peers_ready() -> Vec<Candidate> {
    vec![
        future("backon", || ready.retry(backon())),
        future("tokio-retry", || {
            tokio_retry::Retry::start(tokio_retry(), ready)
        }),
        service("tower", tower(tower::service_fn(|()| ready()))),
        service(
            "tower-resilience",
            tower_resilience(tower::service_fn(|()| ready())),
        ),
    ]
}

fn peers_pending() -> Vec<Candidate> {
    vec![
        future("backon", || pending_once.retry(backon())),
        future("tokio-retry", || {
            tokio_retry::Retry::start(tokio_retry(), pending_once)
        }),
        service("tower", tower(tower::service_fn(|()| pending_once()))),
        service(
            "tower-resilience",
            tower_resilience(tower::service_fn(|()| pending_once())),
        ),
    ]
}

/// Three attempts, exponential: backon's defaults.
fn backon() -> ExponentialBuilder {
    ExponentialBuilder::default()
}

/// Three attempts, exponential.
fn tokio_retry() -> impl Iterator<Item = Duration> {
    ExponentialBackoff::from_millis(10).take(2)
}

/// Three attempts. tower leaves the delay to the policy; this one does not wait.
fn tower<S>(service: S) -> tower::retry::Retry<UpToThree, S> {
    tower::retry::Retry::new(UpToThree { left: 2 }, service)
}

#[derive(Clone)]
struct UpToThree {
    left: u32,
}

impl<T> tower::retry::Policy<(), T, Failure> for UpToThree {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut (), result: &mut Result<T, Failure>) -> Option<Ready<()>> {
        match result {
            Ok(_) => None,
            Err(_) => {
                self.left = self.left.checked_sub(1)?;
                Some(ready_future(()))
            }
        }
    }

    fn clone_request(&mut self, _: &()) -> Option<()> {
        Some(())
    }
}

/// Three attempts, exponential.
fn tower_resilience<S>(
    service: S,
) -> impl Service<(), Response = u64, Error = Failure, Future: Send> + Clone + Send + 'static
where
    S: Service<(), Response = u64, Error = Failure, Future: Send> + Clone + Send + 'static,
{
    RetryLayer::<(), u64, Failure>::builder()
        .max_attempts(3)
        .exponential_backoff(Duration::from_millis(10))
        .build()
        .layer(service)
}

fn future_size(retry: &'static Retry) -> Row {
    Row::known(
        "retry, size of the future of a 16-byte operation",
        "bytes",
        Target::Ratio(0.9),
        size_of_val(&retry.call(pending_once)) as f64,
        [
            ("backon", size_of_val(&pending_once.retry(backon())) as f64),
            (
                "tokio-retry",
                size_of_val(&tokio_retry::Retry::start(tokio_retry(), pending_once)) as f64,
            ),
        ],
    )
}
