//! Snapshots of a bulkhead.

use super::Bulkhead;
use crate::sync::Ordering;

/// The state of a [`Bulkhead`] at one moment. Returned by [`Bulkhead::snapshot`].
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The bulkhead's name.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The current limit, in permits.
    pub limit: u32,
    /// Number of permits in flight. Approximate while calls start and end.
    pub in_flight: u32,
    /// Number of calls in the wait queue.
    pub waiting: usize,
    /// The queue delay as a share of what CoDel tolerates, from 0 to 1. 0 without CoDel.
    pub queue_load: f64,
    /// Number of calls rejected because no permit was free and they could not join the wait queue.
    pub rejected: u64,
    /// Number of calls rejected while they waited: by `max_wait`, by their deadline, or by CoDel.
    pub timed_out: u64,
    /// Number of calls that shadow mode admitted although they would have been rejected.
    pub would_reject: u64,
    /// The partitions, in the order in which the builder got them.
    pub partitions: Vec<PartitionSnapshot>,
}

/// The state of one partition of a [`Bulkhead`].
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The partition's name.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of permits guaranteed to the partition under the current limit.
    pub guaranteed: u32,
    /// Number of the partition's permits in flight.
    pub in_flight: u32,
    /// Number of the partition's calls in the wait queue.
    pub waiting: usize,
}

impl Bulkhead {
    /// Returns a snapshot of counters and gauges. Reading changes no state.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let limit = inner.queue.read().limit();
        let partitions = inner.queue.partitions().iter().enumerate().skip(1);
        // Relaxed: independent counters, read for display.
        Snapshot {
            name: inner.base.name,
            limit,
            in_flight: inner.queue.in_flight(),
            waiting: inner.queue.waiting(),
            queue_load: inner.queue.load(),
            rejected: inner.rejected.load(Ordering::Relaxed),
            timed_out: inner.timed_out.load(Ordering::Relaxed),
            would_reject: inner.would_reject.load(Ordering::Relaxed),
            partitions: partitions
                .map(|(index, partition)| PartitionSnapshot {
                    name: partition.name,
                    guaranteed: partition.guaranteed(limit),
                    in_flight: partition.in_flight(),
                    waiting: inner.queue.waiting_in(index),
                })
                .collect(),
        }
    }
}
