//! Partitions: guaranteed shares of a bulkhead.

use crate::sync::{AtomicU32, Ordering};

/// A part of the bulkhead with a guaranteed share.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: &'static str,
    share: f64,
    in_flight: AtomicU32,
}

impl Partition {
    pub(super) fn new(name: &'static str, share: f64) -> Self {
        Self {
            name,
            share,
            in_flight: AtomicU32::new(0),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        // Relaxed: it only grows under the lock of the wait queue, so a stale reading is never too small.
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of permits guaranteed under `limit`, at least 1 for a share above 0.
    pub(super) fn guaranteed(&self, limit: u32) -> u32 {
        // In binary, 0.07 · 100 is slightly more than 7.
        const TOLERANCE: f64 = 1e-12;
        (self.share * f64::from(limit) * (1.0 - TOLERANCE)).ceil() as u32
    }

    pub(super) fn is_below_share(&self, cost: u32, limit: u32) -> bool {
        u64::from(self.in_flight()) + u64::from(cost) <= u64::from(self.guaranteed(limit))
    }

    pub(super) fn enter(&self, cost: u32) {
        self.in_flight.fetch_add(cost, Ordering::Relaxed);
    }

    pub(super) fn leave(&self, cost: u32) {
        self.in_flight.fetch_sub(cost, Ordering::Relaxed);
    }
}
