//! The counters of a node, updated without a lock.

use crate::endpoints::state::latency::Latency;
use crate::instant::Instant;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The counters of one node. Aligned to a cache line against false sharing. Not to two lines, as elsewhere in this
/// crate, so that the counters of many nodes fit into the cache.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct NodeStats {
    /// Calls in flight, and [`CLOSED`].
    load: AtomicU32,
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// Incremented when the node is ejected and when it returns: results of calls of an earlier epoch say nothing
    /// about its current state.
    epoch: AtomicU32,
    /// Calls of this epoch that ended since the last sweep: good ones in the lower half, failures in the upper.
    ended: AtomicU64,
    /// Like `ended`, for calls that began in an earlier epoch.
    ended_late: AtomicU64,
    /// When the lease of the probe in flight ends, in nanoseconds; zero if there is none.
    probe: AtomicU64,
    pub(crate) latency: Latency,
}

/// Set while the node takes no calls.
const CLOSED: u32 = 1 << 31;

/// Calls that ended between two sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) good: u64,
    pub(crate) failed: u64,
}

impl Ended {
    const fn of_word(word: u64) -> Self {
        Self {
            good: word & u32::MAX as u64,
            failed: word >> 32,
        }
    }

    pub(crate) const fn calls(self) -> u64 {
        self.good + self.failed
    }
}

impl std::ops::Add for Ended {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            good: self.good + other.good,
            failed: self.failed + other.failed,
        }
    }
}

impl NodeStats {
    pub(crate) fn new() -> Self {
        Self {
            load: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            ended_late: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            latency: Latency::new(),
        }
    }

    /// Counts a call as in flight.
    ///
    /// Call it only while reading the routes that lead to the node. A node is closed once no call reads them, so no
    /// call enters a closed node.
    #[inline]
    pub(crate) fn enter(&self) {
        // Relaxed: the lock of the routes orders it before the closing.
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a call. Returns whether it was the last one of a closed node.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        // Release pairs with the Acquire load of `is_idle`, so a drain sees the effects of the call.
        self.load.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1
    }

    /// Closes the node: no further call enters.
    pub(crate) fn close(&self) {
        self.load.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Opens a closed node.
    pub(crate) fn open(&self) {
        self.load.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Returns whether it takes no calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.load.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Returns whether it takes no calls and has none in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.load.load(Ordering::Acquire) == CLOSED
    }

    /// Returns the number of calls in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.load.load(Ordering::Acquire) & !CLOSED
    }

    /// Returns the epoch of a call that starts.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        // Relaxed: a call that starts at the moment of an ejection may count to either epoch.
        self.epoch.load(Ordering::Relaxed)
    }

    /// Counts a call that ended well, of this epoch or an earlier one.
    #[inline]
    pub(crate) fn succeed(&self, is_current: bool) {
        if !is_current {
            self.ended_late.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure. Returns the number of failures since the last success; 0 for a call of an earlier epoch.
    #[inline]
    pub(crate) fn fail(&self, is_current: bool) -> u32 {
        if !is_current {
            self.ended_late.fetch_add(1 << 32, Ordering::Relaxed);
            return 0;
        }
        self.ended.fetch_add(1 << 32, Ordering::Relaxed);
        self.consecutive
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Takes the calls since the last sweep: those of this epoch, and those of earlier ones.
    pub(crate) fn take_ended(&self) -> (Ended, Ended) {
        let take = |word: &AtomicU64| Ended::of_word(word.swap(0, Ordering::Relaxed));
        (take(&self.ended), take(&self.ended_late))
    }

    /// Returns the calls since the last sweep, whatever their epoch.
    pub(crate) fn ended(&self) -> Ended {
        let read = |word: &AtomicU64| Ended::of_word(word.load(Ordering::Relaxed));
        read(&self.ended) + read(&self.ended_late)
    }

    /// Begins an epoch: results of calls in flight no longer count for the health of the node.
    pub(crate) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.consecutive.store(0, Ordering::Relaxed);
        self.probe.store(0, Ordering::Relaxed);
    }

    /// Makes the call the probe, unless another probe holds an unexpired lease.
    pub(crate) fn claim_probe(&self, now: Instant, lease: u64) -> bool {
        let until = self.probe.load(Ordering::Relaxed);
        if now.as_nanos() < until {
            return false;
        }
        let lease = now.after(lease).as_nanos().max(1);
        // Relaxed: the value only decides which call is the probe.
        self.probe
            .compare_exchange(until, lease, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Releases the probe that was claimed at `claimed_at` and ended without a result, unless another call has
    /// replaced it.
    pub(crate) fn release_probe(&self, claimed_at: Instant, lease: u64) {
        let lease = claimed_at.after(lease).as_nanos().max(1);
        let _ = self
            .probe
            .compare_exchange(lease, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
