//! The table of metrics: the only place with their names.

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A current value, written by [`Metrics::collect`](super::Metrics::collect).
    Gauge,
    /// A distribution of seconds.
    Histogram,
}

/// A metric that backstop records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of its labels. Series of events that a call causes in a pipeline have the label `pipeline` as well.
    pub labels: &'static [&'static str],
    /// The description of the metric.
    pub help: &'static str,
}

macro_rules! table {
    ($($id:ident $name:literal $kind:ident [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $id: &str = $name;)+

        /// All metrics that backstop records.
        pub const TABLE: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &["policy" $(, $label)*],
            help: $help,
        }),+];
    };
}

table! {
    CALLS "backstop_calls_total" Counter ["outcome"] "Calls through a pipeline, by how they ended.";
    CALL_SECONDS "backstop_call_seconds" Histogram [] "Time of calls through a pipeline, waits and retries included.";
    ATTEMPTS "backstop_attempts_total" Counter ["kind", "verdict"] "Attempts: first ones, retries, and hedges.";
    ATTEMPT_SECONDS "backstop_attempt_seconds" Histogram [] "Time of attempts, without waits in queues outside.";
    RETRY_STOPS "backstop_retry_stops_total" Counter ["stop"] "Retries that gave up, by the reason.";
    REJECTIONS "backstop_rejections_total" Counter ["reason", "shadow"] "Calls that were rejected, or would have been (shadow).";
    QUEUE_SECONDS "backstop_queue_seconds" Histogram [] "Time that admitted calls waited in a queue.";
    CIRCUIT_STATE "backstop_circuit_state" Gauge ["state"] "1 for the current state of a circuit, 0 for the others.";
    CIRCUIT_TRANSITIONS "backstop_circuit_transitions_total" Counter ["from", "to", "cause"] "Changes of the state of a circuit.";
    IN_FLIGHT "backstop_in_flight" Gauge [] "Calls or copies in flight.";
    LIMIT "backstop_limit" Gauge [] "The largest number of calls in flight, or of tokens of the tightest quota.";
    QUEUE_DEPTH "backstop_queue_depth" Gauge [] "Calls in a wait queue.";
    BUDGET_RATIO "backstop_budget_ratio" Gauge [] "The part of a retry budget that is free, from 0 to 1.";
    TOKENS "backstop_tokens" Gauge [] "Tokens of a rate limiter that are available.";
    SHED_LEVEL "backstop_shed_level" Gauge [] "The share of calls that a load shedder sheds, from 0 to 1.";
    THROTTLE_RATIO "backstop_throttle_ratio" Gauge [] "The share of calls that a throttle rejects, from 0 to 1.";
    HEDGES "backstop_hedges_total" Counter ["result"] "Hedged calls, by what the copies achieved.";
    EJECTIONS "backstop_ejections_total" Counter ["method", "enforced"] "Ejections of endpoints, enforced or not.";
    ENDPOINTS "backstop_endpoints" Gauge ["state"] "Endpoints by state.";
    KEYS "backstop_keys" Gauge [] "Keys that have a policy of their own.";
    DEAD_LETTERS "backstop_dead_letters" Gauge [] "Letters in a dead letter queue.";
    STORE_UP "backstop_store_up" Gauge [] "1 while the store of a shared limit answers, otherwise 0.";
    LEASE_TRIPS "backstop_lease_trips_total" Counter [] "Requests of a shared limit to its store.";
    EVENTS "backstop_events_total" Counter ["kind"] "All other events, by kind.";
}

/// Bucket bounds for the histograms, in seconds, from 1 ms to 1 min, for exporters that need them.
pub const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
