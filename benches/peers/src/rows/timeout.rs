//! Timeouts around a ready operation and around a pending one.

use std::time::Duration;

use backstop::{FastClock, Policy, Timeout, TokioClock};
use tower_resilience_timelimiter::TimeLimiterLayer;

use super::{Row, Target};
use crate::measure::Candidate;
use crate::work::{Failure, blocking, future, leak, pending_once, ready, service};

const LIMIT: Duration = Duration::from_secs(2);

pub fn rows() -> Vec<Row> {
    let tokio_clock = leak(Timeout::after(LIMIT));
    let fast_clock = leak(
        Timeout::builder()
            .after(LIMIT)
            .clock(FastClock::new())
            .build()
            .expect("a limit"),
    );
    let mut rows = vec![];
    for threads in [1, 2] {
        rows.push(
            Row::race(
                "timeout, ready, tokio clock, beside the clock read",
                threads,
                0.1,
                future("tokio clock", || tokio_clock.call(ready)),
                peers_ready(),
            )
            .beside(blocking("clock read", || backstop::Clock::now(&TokioClock)))
            .against("tokio"),
        );
        rows.push(
            Row::race(
                "timeout, ready, fast clock, beside the clock read",
                threads,
                0.1,
                future("fast clock", || fast_clock.call(ready)),
                peers_ready(),
            )
            .beside({
                let clock = FastClock::new();
                blocking("clock read", move || backstop::Clock::now(&clock))
            })
            .against("tokio"),
        );
    }
    for (threads, of_tokio_clock, of_fast_clock) in [(1, 1.05, 0.5), (2, 1.05, 0.2)] {
        rows.push(
            Row::race(
                "timeout, pending once, tokio clock",
                threads,
                of_tokio_clock,
                future("tokio clock", || tokio_clock.call(pending_once)),
                peers_pending(),
            )
            .against("tokio"),
        );
        rows.push(
            Row::race(
                "timeout, pending once, fast clock",
                threads,
                of_fast_clock,
                future("fast clock", || fast_clock.call(pending_once)),
                peers_pending(),
            )
            .against("tokio"),
        );
    }
    rows.push(Row::no_allocations(
        "timeout, allocations, ready",
        future("tokio clock", || tokio_clock.call(ready)),
        peers_ready(),
    ));
    rows.push(Row::no_allocations(
        "timeout, allocations, pending once, tokio clock",
        future("tokio clock", || tokio_clock.call(pending_once)),
        peers_pending(),
    ));
    rows.push(Row::no_allocations(
        "timeout, allocations, pending once, fast clock",
        future("fast clock", || fast_clock.call(pending_once)),
        peers_pending(),
    ));
    rows.push(future_size(tokio_clock));
    rows
}

fn peers_ready() -> Vec<Candidate> {
    vec![
        future("tokio", || tokio::time::timeout(LIMIT, ready())),
        service("tower", tower(tower::service_fn(|()| ready()))),
        service(
            "tower-resilience",
            time_limiter(tower::service_fn(|()| ready())),
        ),
    ]
}

fn peers_pending() -> Vec<Candidate> {
    vec![
        future("tokio", || tokio::time::timeout(LIMIT, pending_once())),
        service("tower", tower(tower::service_fn(|()| pending_once()))),
        service(
            "tower-resilience",
            time_limiter(tower::service_fn(|()| pending_once())),
        ),
    ]
}

fn tower<S>(service: S) -> tower::timeout::Timeout<S> {
    tower::timeout::Timeout::new(service, LIMIT)
}

fn time_limiter<S>(
    service: S,
) -> impl tower::Service<(), Response = u64, Future: Send> + Clone + Send + 'static
where
    S: tower::Service<(), Response = u64, Error = Failure, Future: Send> + Clone + Send + 'static,
{
    use tower::Layer;
    TimeLimiterLayer::builder()
        .timeout_duration(LIMIT)
        .build()
        .layer(service)
}

/// tower's future has the same fields as tokio's; the other peer's is boxed.
fn future_size(timeout: &'static Timeout) -> Row {
    Row::known(
        "timeout, size of the future of a 16-byte operation",
        "bytes",
        Target::Ratio(1.25),
        size_of_val(&timeout.call(pending_once)) as f64,
        [("tokio", {
            let _entered = crate::work::enter();
            size_of_val(&tokio::time::timeout(LIMIT, pending_once())) as f64
        })],
    )
}
