//! The health of one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::stats::{Ended, NodeStats};
use crate::event::{EjectionCause, Unenforced};
use crate::instant::Instant;

/// The health of a node.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) weight: f64,
    pub(crate) priority: u32,
    /// The hash of its name.
    pub(crate) hash: u64,
    /// Distinguishes the node from all others of the process.
    pub(crate) number: u32,
    pub(crate) standing: Standing,
    /// Number of ejections, less one for each healthy interval since.
    pub(crate) times: u32,
    /// Whether it was ejected since the last sweep.
    pub(super) was_ejected: bool,
    /// It takes no calls before this time, because it asked for a pause.
    pub(crate) parked_until: Instant,
    pub(crate) is_drained: bool,
    /// Whether the node has been removed from the set.
    pub(crate) is_leaving: bool,
    /// Whether its health checks fail.
    pub(crate) is_unhealthy: bool,
    /// Consecutive checks of one kind, which may change its state.
    pub(super) streak: Streak,
    /// Start of its slow start.
    pub(crate) new_since: Option<Instant>,
    pub(super) swept: Ended,
}

/// Consecutive health checks with the same result.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streak {
    is_good: bool,
    length: u32,
}

impl Streak {
    /// Adds a check. Returns the number of consecutive ones with this result.
    pub(super) const fn add(&mut self, is_good: bool) -> u32 {
        if self.is_good != is_good {
            *self = Self { is_good, length: 0 };
        }
        self.length = self.length.saturating_add(1);
        self.length
    }
}

/// Whether a node is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The node is not ejected.
    Admitted,
    /// The node takes no calls before this time.
    Ejected { until: Instant },
    /// The ejection is over: the next call is the probe that decides.
    Returning,
}

impl Record {
    pub(crate) fn new(weight: f64, priority: u32, hash: u64, new_since: Option<Instant>) -> Self {
        // Relaxed: the numbers only have to differ.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).max(1);
        Self {
            stats: Arc::new(NodeStats::new()),
            weight,
            priority,
            hash,
            number,
            standing: Standing::Admitted,
            times: 0,
            was_ejected: false,
            parked_until: Instant::ORIGIN,
            is_drained: false,
            is_leaving: false,
            is_unhealthy: false,
            streak: Streak::default(),
            new_since,
            swept: Ended::default(),
        }
    }

    /// Returns whether the node is part of the set and not drained.
    pub(crate) const fn is_member(&self) -> bool {
        !self.is_drained && !self.is_leaving
    }

    /// Returns whether the node was removed and has no call in flight.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_leaving && self.stats.is_idle()
    }

    /// Returns whether the node would take calls if it were not ejected.
    pub(crate) fn is_fit(&self, now: Instant) -> bool {
        self.is_member() && !self.is_unhealthy && self.parked_until <= now
    }

    /// Returns whether the node takes calls.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        self.is_fit(now) && self.standing == Standing::Admitted
    }

    /// Returns when neither an ejection nor a park holds calls back any more.
    pub(crate) fn barred_until(&self) -> Instant {
        match self.standing {
            Standing::Ejected { until } => until.max(self.parked_until),
            Standing::Admitted | Standing::Returning => self.parked_until,
        }
    }

    /// Returns all calls that ended: good ones and failures.
    pub(crate) fn totals(&self) -> Ended {
        self.swept + self.stats.ended()
    }

    /// Takes the calls since the last sweep. Returns those of this epoch.
    pub(super) fn sweep(&mut self) -> Ended {
        let (current, late) = self.stats.take_ended();
        self.swept = self.swept + current + late;
        current
    }

    /// Begins an epoch without losing the counts of the last one.
    pub(crate) fn begin_epoch(&mut self) {
        self.sweep();
        self.stats.begin_epoch();
    }
}

/// A change of the node at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Ejected {
        index: u32,
        cause: EjectionCause,
        length: Duration,
        times: u32,
    },
    NotEjected {
        index: u32,
        cause: EjectionCause,
        reason: Unenforced,
    },
    Returned {
        index: u32,
    },
    Parked {
        index: u32,
        length: Duration,
    },
    Unhealthy {
        index: u32,
    },
    Healthy {
        index: u32,
    },
    Draining {
        index: u32,
        in_flight: u32,
    },
}
