//! What calls count on a node without a lock.

use crate::endpoints::state::latency::Latency;
use crate::instant::Instant;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The counters of one node. On a cache line of its own: neighbors do not slow each other down. Not on two,
/// as elsewhere in this crate: of many nodes, more fit into the cache.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Vitals {
    /// Calls in flight, and [`CLOSED`].
    load: AtomicU32,
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// Changes when the node is ejected and when it returns: what calls of an earlier epoch find out says
    /// nothing about the node as it is now.
    epoch: AtomicU32,
    /// Calls since the last sweep: those that ended well, and failures in the upper half.
    ended: AtomicU64,
    /// When the lease of the probe in flight ends, in nanoseconds; zero if there is none.
    probe: AtomicU64,
    pub(crate) latency: Latency,
}

/// The node takes no calls.
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

impl Vitals {
    pub(crate) fn new() -> Self {
        Self {
            load: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            latency: Latency::new(),
        }
    }

    /// Counts a call as in flight. Returns false, and counts nothing, if the node is closed.
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        // Closing and counting use one word, so a call either precedes the closing, which then sees it,
        // or sees the closing. Not added and taken back: a drain would have to hear of that too.
        let mut load = self.load.load(Ordering::Relaxed);
        while load & CLOSED == 0 {
            let entered = self.load.compare_exchange_weak(
                load,
                load + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match entered {
                Ok(_) => return true,
                Err(current) => load = current,
            }
        }
        false
    }

    /// Ends a call. Returns whether it was the last one of a closed node.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        // Release: what the call did happens before what a drain does next.
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

    /// Whether it takes no calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.load.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Returns the number of calls in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.load.load(Ordering::Acquire) & !CLOSED
    }

    /// The epoch of a call that starts.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        // Relaxed: a call that starts at the moment of an ejection may count to either epoch.
        self.epoch.load(Ordering::Relaxed)
    }

    /// Counts a call that ended well.
    #[inline]
    pub(crate) fn succeed(&self) {
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure. Returns the number of failures since the last success.
    #[inline]
    pub(crate) fn fail(&self) -> u32 {
        self.ended.fetch_add(1 << 32, Ordering::Relaxed);
        self.consecutive
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Takes the calls since the last sweep.
    pub(crate) fn take_ended(&self) -> Ended {
        Ended::of_word(self.ended.swap(0, Ordering::Relaxed))
    }

    /// The calls since the last sweep.
    pub(crate) fn ended(&self) -> Ended {
        Ended::of_word(self.ended.load(Ordering::Relaxed))
    }

    /// Begins an epoch: nothing that calls in flight find out counts.
    pub(crate) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.consecutive.store(0, Ordering::Relaxed);
        self.ended.store(0, Ordering::Relaxed);
        self.probe.store(0, Ordering::Relaxed);
    }

    /// Makes the caller's call the probe, unless there is one whose lease has not ended.
    pub(crate) fn claim_probe(&self, now: Instant, lease: u64) -> bool {
        let until = self.probe.load(Ordering::Relaxed);
        if now.as_nanos() < until {
            return false;
        }
        let lease = now.after(lease).as_nanos().max(1);
        // Relaxed: the word publishes nothing, it only decides which call is the probe.
        self.probe
            .compare_exchange(until, lease, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives back a probe that found out nothing.
    pub(crate) fn release_probe(&self) {
        self.probe.store(0, Ordering::Relaxed);
    }
}
