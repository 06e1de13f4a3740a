//! Partitions: who is in, and how many may be for certain.

use crate::sync::{AtomicU32, Ordering};

/// A part of the bulkhead with a share of its own.
#[derive(Debug)]
pub(in crate::bulkhead) struct Lane {
    pub(in crate::bulkhead) name: &'static str,
    pub(in crate::bulkhead) share: f64,
    in_flight: AtomicU32,
}

impl Lane {
    pub(in crate::bulkhead) fn new(name: &'static str, share: f64) -> Self {
        Self {
            name,
            share,
            in_flight: AtomicU32::new(0),
        }
    }

    pub(in crate::bulkhead) fn in_flight(&self) -> u32 {
        // Relaxed: it only grows under the queue's lock; a stale reading is too large, never too
        // small.
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What this lane has for itself under `limit`: at least 1, if it has a share at all.
    pub(in crate::bulkhead) fn guaranteed(&self, limit: u32) -> u32 {
        // Shares are written in decimals: 0.07 of 100 is a little more than 7.
        const A_LITTLE: f64 = 1e-12;
        (self.share * f64::from(limit) * (1.0 - A_LITTLE)).ceil() as u32
    }

    pub(super) fn is_below_share(&self, cost: u32, limit: u32) -> bool {
        u64::from(self.in_flight()) + u64::from(cost) <= u64::from(self.guaranteed(limit))
    }
    pub(super) fn enter(&self, cost: u32) {
        // Relaxed, see `in_flight`.
        self.in_flight.fetch_add(cost, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn leave(&self, cost: u32) {
        // Relaxed, see `in_flight`.
        self.in_flight.fetch_sub(cost, Ordering::Relaxed);
    }
}
