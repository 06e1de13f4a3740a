//! Bulkheads: a free permit, and a permit handed to a waiter.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use backstop::{Bulkhead, Policy};
use tokio::sync::Semaphore;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service};
use tower_resilience_bulkhead::BulkheadLayer;

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, blocking, future, leak, pending_once, ready, service};

const PLACES: usize = 25;

pub fn rows() -> Vec<Row> {
    let bulkhead = leak(Bulkhead::new(PLACES as u32));
    let queued = Bulkhead::builder().max_concurrent(1).max_waiting(8).build();
    let queued = leak(queued.expect("a good configuration"));
    let mut rows = vec![];
    for (threads, target) in [(1, 0.5), (2, 0.1)] {
        rows.push(
            Row::race(
                "bulkhead, try_acquire and release",
                threads,
                target,
                blocking("backstop", || drop(bulkhead.try_acquire())),
                vec![semaphore_try()],
            )
            .against("tokio Semaphore"),
        );
        rows.push(
            Row::race(
                "bulkhead, acquire, ready operation, release",
                threads,
                target,
                future("backstop", || bulkhead.call(ready)),
                peers(ready),
            )
            .against("tokio Semaphore"),
        );
    }
    rows.push(
        Row::race(
            "bulkhead, one place handed over between two calls",
            1,
            1.0,
            future("backstop", || {
                both(queued.call(pending_once), queued.call(pending_once))
            }),
            vec![semaphore_handed_over()],
        )
        .against("tokio Semaphore"),
    );
    rows.push(Row::no_allocations(
        "bulkhead, allocations, room for all",
        future("backstop", || bulkhead.call(pending_once)),
        peers(pending_once),
    ));
    rows
}

fn semaphore_try() -> Candidate {
    let semaphore = leak(Semaphore::new(PLACES));
    blocking("tokio Semaphore", || drop(semaphore.try_acquire()))
}

fn semaphore_handed_over() -> Candidate {
    let semaphore = leak(Semaphore::new(1));
    future("tokio Semaphore", || {
        let call = || async {
            let _permit = semaphore.acquire().await;
            pending_once().await
        };
        both(call(), call())
    })
}

/// Peers around an operation, with free permits.
fn peers<Fut>(operation: fn() -> Fut) -> Vec<Candidate>
where
    Fut: Future<Output = Result<u64, Failure>> + Send + 'static,
{
    let semaphore = leak(Semaphore::new(PLACES));
    let inner = tower::service_fn(move |()| operation());
    vec![
        future("tokio Semaphore", move || async move {
            let _permit = semaphore.acquire().await;
            operation().await
        }),
        service("tower", ConcurrencyLimit::new(inner, PLACES)),
        service("tower-resilience", tower_resilience(inner)),
    ]
}

fn tower_resilience<S>(inner: S) -> impl Service<(), Future: Send> + Clone + Send + 'static
where
    S: Service<(), Response = u64, Error = Failure, Future: Send> + Clone + Send + Sync + 'static,
{
    BulkheadLayer::builder()
        .max_concurrent_calls(PLACES)
        .build()
        .expect("a good configuration")
        .layer(inner)
}

/// Polls both futures to completion on one task.
async fn both(first: impl Future, second: impl Future) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_left, mut second_left) = (true, true);
    std::future::poll_fn(|cx| {
        first_left = first_left && first.as_mut().poll(cx).is_pending();
        second_left = second_left && second.as_mut().poll(cx).is_pending();
        if first_left || second_left {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}
