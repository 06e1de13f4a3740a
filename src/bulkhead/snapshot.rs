//! What a bulkhead looks like at one moment.

use super::Bulkhead;
use crate::sync::Ordering;

/// The state of a [`Bulkhead`] at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BulkheadSnapshot {
    /// The name.
    pub name: &'static str,
    /// How many permits there are.
    pub limit: u32,
    /// How many of them are out. While calls begin and end it may be off by a few.
    pub in_flight: u32,
    /// How many calls wait in line.
    pub queued: usize,
    /// How long the line takes against what CoDel tolerates, 0 to 1; 0 without CoDel.
    pub queue_load: f64,
    /// How many calls found no room, in line or at all.
    pub refused: u64,
    /// How many calls had waited too long: for themselves, for their deadline, or for CoDel.
    pub timed_out: u64,
    /// How many calls the shadow mode let pass that would have been refused.
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
    /// How many permits are its own.
    pub guaranteed: u32,
    /// How many it has out.
    pub in_flight: u32,
    /// How many of its calls wait in line.
    pub queued: usize,
}

impl Bulkhead {
    /// Counts and gauges. Reading changes nothing.
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let inner = &*self.inner;
        let limit = inner.gate.read().limit();
        let partitions = inner.gate.lanes().iter().enumerate().skip(1);
        // Relaxed: counters for people.
        BulkheadSnapshot {
            name: inner.name,
            limit,
            in_flight: inner.gate.in_flight(),
            queued: inner.gate.queued(),
            queue_load: inner.gate.load(),
            refused: inner.refused.load(Ordering::Relaxed),
            timed_out: inner.timed_out.load(Ordering::Relaxed),
            would_refuse: inner.would_refuse.load(Ordering::Relaxed),
            partitions: partitions
                .map(|(lane, partition)| PartitionSnapshot {
                    name: partition.name,
                    guaranteed: partition.guaranteed(limit),
                    in_flight: partition.in_flight(),
                    queued: inner.gate.queued_in(lane),
                })
                .collect(),
        }
    }
}
