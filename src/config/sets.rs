//! Settings of policies with type parameters: keyed ones, endpoints, stale values, coalescing, dead letters, faults.
//! The program sets the rest with the builder: nodes, templates, sinks.

use std::time::Duration;

use super::section::section;
#[cfg(feature = "chaos")]
use super::setting::Setting;
#[cfg(feature = "chaos")]
use crate::chaos::ChaosBuilder;
use crate::coalesce::CoalesceBuilder;
use crate::codel::CodelBuilder;
use crate::dead_letter::{DeadLetterQueueBuilder, MemorySink, WhenFull};
use crate::endpoints::EndpointsBuilder;
use crate::fallback::StaleBuilder;
use crate::forms::interned;
use crate::keyed::{KeyedBuilder, Overflow};

// With the feature `dead-letter-file`, stored letters have the same form.
#[cfg(not(feature = "dead-letter-file"))]
crate::forms::as_text!(crate::dead_letter::Timestamp);

section! {
    /// Settings of a [`Keyed`](crate::Keyed) set, named after the setters of [`KeyedBuilder`].
    KeyedSettings, for [K, P] KeyedBuilder<K, P> => {
        /// The largest number of keys.
        max_keys: usize,
        /// What happens to new keys while the table is full: `reject`, `shared`, or `evict`.
        overflow: Overflow = Overflow::Shared,
        /// The name in errors and events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of [`Coalesce`](crate::Coalesce), named after the setters of [`CoalesceBuilder`].
    CoalesceSettings, for [K, T, E] CoalesceBuilder<K, T, E> => {
        /// The name in events and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of [`Stale`](crate::Stale), named after the setters of [`StaleBuilder`].
    StaleSettings, for [T] StaleBuilder<T> => {
        /// The age up to which a value replaces errors.
        max_age: Duration,
        /// Whether errors of the operation are replaced.
        on_errors: bool = true,
        /// Whether timeouts are replaced.
        on_timeouts: bool = true,
        /// Whether rejections are replaced.
        on_rejections: bool = true,
        /// Whether errors are replaced although the dependency is healthy.
        on_permanent: bool = false,
        /// The name in events and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// The rule that ejects nodes whose success rate is low, see
    /// [`eject_below_mean`](EndpointsBuilder::eject_below_mean).
    BelowMeanSettings => {
        /// Standard deviations below the mean.
        deviations: f64 = 1.9,
        /// The least number of calls of a node.
        min_calls: u64 = 100,
        /// The least number of nodes with `min_calls`.
        min_nodes: usize = 5,
    }
}

section! {
    /// The rule that ejects nodes by their share of failures, see
    /// [`eject_failure_share`](EndpointsBuilder::eject_failure_share).
    FailureShareSettings => {
        /// The share of failures.
        share: f64 = 0.85,
        /// The least number of calls of a node.
        min_calls: u64 = 50,
    }
}

section! {
    /// The shape of a slow start, see [`slow_start_shape`](EndpointsBuilder::slow_start_shape).
    SlowStartShape => {
        /// The smallest share of the weight.
        min: f64 = 0.1,
        /// The reciprocal of the exponent.
        aggression: f64 = 1.0,
    }
}

section! {
    /// Settings of [`Endpoints`](crate::Endpoints), named after the setters of [`EndpointsBuilder`]. The program adds
    /// the nodes.
    EndpointsSettings, for [N] EndpointsBuilder<N> => {
        /// The number of random nodes among which a call takes the best, from 1 to 16.
        choices: usize,
        /// Sends calls to the nodes in turn.
        round_robin: bool => |builder, on, _| match on {
            true => builder.round_robin(),
            false => builder,
        },
        /// The time constant of the latency average.
        decay: Duration = Duration::from_secs(10),
        /// The least latency that a failure counts as.
        failure_penalty: Duration = Duration::from_secs(5),
        /// The longest hint that is obeyed.
        max_hint: Duration = Duration::from_secs(300),
        /// The number of consecutive failures that ejects a node.
        eject_after: u32 = 5,
        /// Ejects nodes whose success rate is low.
        eject_below_mean: BelowMeanSettings => |builder, rule, _| {
            let all = rule.effective();
            match (all.deviations, all.min_calls, all.min_nodes) {
                (Some(deviations), Some(calls), Some(nodes)) => builder.eject_below_mean(deviations, calls, nodes),
                _ => builder,
            }
        },
        /// Ejects nodes by their share of failures.
        eject_failure_share: FailureShareSettings => |builder, rule, _| {
            let all = rule.effective();
            match (all.share, all.min_calls) {
                (Some(share), Some(calls)) => builder.eject_failure_share(share, calls),
                _ => builder,
            }
        },
        /// The interval at which success rates are compared.
        interval: Duration = Duration::from_secs(10),
        /// The length of the first ejection.
        base_ejection: Duration = Duration::from_secs(30),
        /// The longest ejection.
        max_ejection: Duration = Duration::from_secs(300),
        /// The jitter of ejections, as a share of their length.
        ejection_jitter: f64 = 0.1,
        /// The largest share of ejected nodes.
        max_ejected: f64 = 0.1,
        /// The share of available nodes below which calls go to all.
        panic_threshold: f64 = 0.5,
        /// The spare capacity of a priority, as a factor.
        overprovisioning: f64 = 1.4,
        /// The length of the slow start of new and returning nodes.
        slow_start: Duration = Duration::from_secs(30),
        /// The shape of the slow start.
        slow_start_shape: SlowStartShape => |builder, shape, _| {
            let all = shape.effective();
            match (all.min, all.aggression) {
                (Some(min), Some(aggression)) => builder.slow_start_shape(min, aggression),
                _ => builder,
            }
        },
        /// Failed health checks after which a node is unhealthy.
        unhealthy_after: u32 = 3,
        /// Successful health checks after which a node is healthy.
        healthy_after: u32 = 1,
        /// Makes its choices reproducible.
        seed: u64,
        /// Reports ejections, and ejects no node.
        shadow: bool = false,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a standalone [`Codel`](crate::codel::Codel), named after the setters of [`CodelBuilder`].
    CodelMachineSettings, for [] CodelBuilder => {
        /// The queue delay above which the queue is overloaded.
        target: Duration = Duration::from_millis(5),
        /// The time for which the delay must exceed the target.
        interval: Duration = Duration::from_millis(100),
        /// The queue delay above which waiters are dropped under overload, in targets.
        stale_after: u32 = 2,
    }
}

section! {
    /// Letters in memory, see [`MemorySink`].
    MemorySettings => {
        /// The largest number of letters.
        max_letters: u64 = 10_000,
        /// The largest age of a letter.
        max_age: Duration = Duration::MAX,
        /// The behavior of a full queue: `reject` or `evict_oldest`.
        when_full: WhenFull,
    }
}

section! {
    /// Settings of a [`DeadLetterQueue`](crate::DeadLetterQueue), named after the setters of
    /// [`DeadLetterQueueBuilder`].
    DeadLetterSettings, for [R: Send + Sync + 'static] DeadLetterQueueBuilder<R> => {
        /// Keeps letters in memory.
        memory: MemorySettings => |builder, settings, _| {
            let mut sink = MemorySink::new();
            if let Some(letters) = settings.max_letters {
                sink = sink.max_letters(letters);
            }
            if let Some(age) = settings.max_age {
                sink = sink.max_age(age);
            }
            if let Some(when_full) = settings.when_full {
                sink = sink.when_full(when_full);
            }
            builder.memory(sink)
        },
        /// The largest number of replays of a letter.
        max_replays: u32 = 5,
        /// The length to which error messages are cut, in bytes.
        max_error_bytes: usize = 4096,
        /// Makes idempotency keys reproducible.
        seed: u64,
        /// The name in events and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

#[cfg(feature = "dead-letter-file")]
section! {
    /// Settings of a [`FileSink`](crate::dead_letter::FileSink), named after the setters of
    /// [`FileSinkBuilder`](crate::dead_letter::FileSinkBuilder).
    FileSinkSettings, for [] crate::dead_letter::FileSinkBuilder => {
        /// The largest number of letters.
        max_letters: u64 = 1_000_000,
        /// The largest total size of the letters, in bytes.
        max_bytes: u64 = 1 << 30,
        /// The largest age of a letter.
        max_age: Duration = Duration::MAX,
        /// The behavior of a full queue: `reject` or `evict_oldest`.
        when_full: WhenFull = WhenFull::Reject,
        /// The length at which a segment file is closed and a new one is begun, in bytes.
        segment_bytes: u64 = 8 << 20,
        /// Whether a letter counts as stored only after an fsync.
        fsync: bool = true,
        /// The most letters that wait to be written.
        max_waiting: usize = 1 << 16,
    }
}

#[cfg(feature = "chaos")]
section! {
    /// A delay of a share of the calls.
    LatencySettings => {
        /// The share of the calls, from 0 to 1.
        rate: f64,
        /// The shortest delay.
        min: Duration,
        /// The longest delay. Default: the shortest.
        max: Duration,
    }
}

#[cfg(feature = "chaos")]
section! {
    /// Settings of [`Chaos`](crate::Chaos), named after the setters of [`ChaosBuilder`].
    ChaosSettings, for [E, R] ChaosBuilder<E, R> => {
        /// Delays a share of the calls.
        latency: LatencySettings => |builder, latency, at| match (latency.rate, latency.min) {
            (Some(rate), Some(min)) => builder.latency(rate, min..=latency.max.unwrap_or(min)),
            _ => {
                at.report("needs rate and min", Some(&latency.write()));
                builder
            }
        },
        /// The largest share of calls that get a fault.
        max_share: f64 = 0.1,
        /// Whether faults are injected from the start.
        enabled: bool = true,
        /// Makes its choices reproducible.
        seed: u64,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}
