//! Snapshots of a bulkhead.

use super::Bulkhead;
use crate::sync::Ordering;

/// The state of a [`Bulkhead`] at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BulkheadSnapshot {
    /// The name.
    pub name: &'static str,
    /// Number of permits.
    pub limit: u32,
    /// Number of permits in flight. While calls begin and end it may be off by a few.
    pub in_flight: u32,
    /// Number of calls that wait.
    pub queued: usize,
    /// The queue delay as a share of what CoDel tolerates, 0 to 1; 0 without CoDel.
    pub queue_load: f64,
    /// Number of calls that found no room, neither a permit nor a place in the queue.
    pub refused: u64,
    /// Number of calls that had waited too long: for `max_wait`, for their deadline, or for CoDel.
    pub timed_out: u64,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_refuse: u64,
    /// The partitions, in the order they were given to the builder.
    pub partitions: Vec<PartitionSnapshot>,
}

/// The state of a partition of a [`Bulkhead`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The name.
    pub name: &'static str,
    /// Number of permits guaranteed to it.
    pub guaranteed: u32,
    /// Number of permits it has in flight.
    pub in_flight: u32,
    /// Number of its calls that wait.
    pub queued: usize,
}

impl Bulkhead {
    /// Returns counts and gauges. Reading changes nothing.
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let inner = &*self.inner;
        let limit = inner.queue.read().limit();
        let partitions = inner.queue.partitions().iter().enumerate().skip(1);
        // Relaxed: counters for people.
        BulkheadSnapshot {
            name: inner.base.name,
            limit,
            in_flight: inner.queue.in_flight(),
            queued: inner.queue.queued(),
            queue_load: inner.queue.load(),
            refused: inner.refused.load(Ordering::Relaxed),
            timed_out: inner.timed_out.load(Ordering::Relaxed),
            would_refuse: inner.would_refuse.load(Ordering::Relaxed),
            partitions: partitions
                .map(|(index, partition)| PartitionSnapshot {
                    name: partition.name,
                    guaranteed: partition.guaranteed(limit),
                    in_flight: partition.in_flight(),
                    queued: inner.queue.queued_in(index),
                })
                .collect(),
        }
    }
}
