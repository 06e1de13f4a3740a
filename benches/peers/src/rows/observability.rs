//! The cost of metrics and of spans: the same stack with and without.

use backstop::metrics::{BUCKETS, Metrics};
use backstop::tracing::{AttemptSpan, CallSpan};
use backstop::{CircuitBreaker, FastClock, Pipeline, Policy, Retry, Timeout};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::{Contest, Floor, Row, Target};
use crate::measure::Candidate;
use crate::work::{future, leak, ready};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

type Stack = (Retry, CircuitBreaker, Timeout);

fn stack(clock: &FastClock) -> Stack {
    let sound = "the settings are valid";
    (
        Retry::builder().clock(clock.clone()).build().expect(sound),
        CircuitBreaker::builder()
            .clock(clock.clone())
            .build()
            .expect(sound),
        Timeout::builder()
            .after(LIMIT)
            .clock(clock.clone())
            .build()
            .expect(sound),
    )
}

/// Returns an observer for a Prometheus recorder, with the handle of the recorder.
fn with_prometheus() -> (Metrics, PrometheusHandle) {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("backstop_".to_owned()), BUCKETS)
        .expect("there are buckets")
        .build_recorder();
    let handle = recorder.handle();
    (Metrics::with_recorder(recorder), handle)
}

/// Returns a candidate whose samples end with the recorder's upkeep, as a program with this recorder does it every few
/// seconds. Without upkeep, each histogram grows by a value a call for ever, and the row measures memory.
fn kept_up<Fut: Future>(
    handle: &PrometheusHandle,
    make: impl Fn() -> Fut + Send + Sync + 'static,
) -> Candidate {
    let (calls, handle) = (future("metrics", make), handle.clone());
    Candidate::new("metrics", move |operations| {
        calls.run(operations);
        handle.run_upkeep();
    })
}

/// Returns a row in which ours may cost that many nanoseconds more than `without`.
fn excess(name: &str, limit: f64, ours: Candidate, without: Candidate) -> Row {
    let contest = Contest::Time {
        ours,
        peers: vec![without.clone()],
        floor: Floor::Ours(without),
    };
    Row::new(name, 1, Target::AtMost(limit), contest)
}

pub fn rows() -> Vec<Row> {
    let clock = FastClock::new();
    let plain = leak(Pipeline::new(stack(&clock)));
    let without = || future("without", || plain.call(ready));

    let (metrics, handle) = with_prometheus();
    let observed = leak(
        Pipeline::new(stack(&clock))
            .with_name("calls")
            .observer(metrics.clone()),
    );
    let (retry, breaker, timeout) = stack(&clock);
    let attempts = metrics.attempts("attempts").clock(clock.clone());
    let both = leak(
        Pipeline::new((retry, breaker, timeout, attempts))
            .with_name("both")
            .observer(metrics.clone()),
    );
    let (retry, breaker, timeout) = stack(&clock);
    let spans = leak(Pipeline::new((
        CallSpan::new("spans"),
        retry,
        breaker,
        timeout,
        AttemptSpan::new("spans"),
    )));
    vec![
        excess(
            "metrics with a Prometheus recorder, calls, excess over the stack",
            80.0,
            kept_up(&handle, || observed.call(ready)),
            without(),
        ),
        excess(
            "metrics with a Prometheus recorder, calls and attempts, excess",
            160.0,
            kept_up(&handle, || both.call(ready)),
            without(),
        ),
        excess(
            "tracing without a subscriber, two spans, excess over the stack",
            2.0,
            future("tracing", || spans.call(ready)),
            without(),
        ),
        // The recorder keeps values in blocks, and allocates one for each 64 of them.
        Row::allocations(
            "metrics with a Prometheus recorder, allocations",
            Target::AtMost(0.05),
            future("metrics", || observed.call(ready)),
            vec![without()],
        ),
    ]
}
