//! The level below which calls are shed, shared by several shedders.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::state::{Levels, Share, Threshold, combine};
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::{AtomicU64, Ordering, lock};

/// One cut for several shedders: give each a clone.
///
/// They share the distribution of priorities, and shed what they want shed together: the mean of
/// their shares, weighted by their calls per second. So a server with several bottlenecks sheds the
/// same callers at each, and no work is done at one that is thrown away at the next.
///
/// What a shedder wants shed counts for a cool-off after its last update: once it has no more calls,
/// nobody is shed for its sake. Those in shadow mode have no say in what others shed; they go by a cut
/// that counts them in. All should be on one clock.
#[derive(Clone, Default)]
pub struct SharedCut {
    inner: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Of the shedders that reject.
    live: SharedThreshold,
    /// Of these and those in shadow mode, once there are any.
    all: OnceLock<SharedThreshold>,
    participants: AtomicU64,
}

/// A threshold, and what it follows from.
struct SharedThreshold {
    /// A [`Threshold`] in one word.
    threshold: AtomicU64,
    table: Mutex<Table>,
}

struct Table {
    levels: Levels,
    /// The last report of each participant, by its number.
    shares: Vec<(u64, Share)>,
}

impl SharedCut {
    /// A cut for shedders to share.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn join(self, is_shadow: bool) -> Participant {
        if is_shadow {
            self.inner.all.get_or_init(SharedThreshold::default);
        }
        Participant {
            // Relaxed: a number of its own.
            number: self.inner.participants.fetch_add(1, Ordering::Relaxed),
            is_shadow,
            cut: self,
            calls: AtomicU64::new(0),
        }
    }
}

/// A shedder that shares a threshold.
pub(super) struct Participant {
    cut: SharedCut,
    number: u64,
    is_shadow: bool,
    /// Since its last report.
    calls: AtomicU64,
}

impl Participant {
    /// Returns the thresholds it has a say in.
    fn thresholds(&self) -> impl Iterator<Item = &SharedThreshold> {
        let shared = &*self.cut.inner;
        let live = (!self.is_shadow).then_some(&shared.live);
        live.into_iter().chain(shared.all.get())
    }

    pub(super) fn count(&self, priority: Priority) {
        // Relaxed: a weight.
        self.calls.fetch_add(1, Ordering::Relaxed);
        for shared in self.thresholds() {
            lock(&shared.table).levels.add(priority);
        }
    }

    /// Reports the share of its calls in the last `over` that it wants to shed, valid for `good_for`,
    /// and updates the threshold.
    pub(super) fn report(&self, rate: f64, over: Duration, good_for: Duration, now: Instant) {
        let share = Share {
            calls: self.calls.swap(0, Ordering::Relaxed),
            over,
            rate,
            at: now,
            good_for,
        };
        for shared in self.thresholds() {
            shared.report(self.number, share, now);
        }
    }

    pub(super) fn threshold(&self) -> Threshold {
        let shared = &*self.cut.inner;
        let all = shared.all.get().filter(|_| self.is_shadow);
        all.unwrap_or(&shared.live).threshold()
    }
}

impl Drop for Participant {
    /// Its share no longer counts.
    fn drop(&mut self) {
        for shared in self.thresholds() {
            let mut table = lock(&shared.table);
            table.shares.retain(|(number, _)| *number != self.number);
        }
    }
}

impl SharedThreshold {
    fn report(&self, number: u64, share: Share, now: Instant) {
        let mut table = lock(&self.table);
        match table.shares.iter_mut().find(|(of, _)| *of == number) {
            Some((_, last)) => *last = share,
            None => table.shares.push((number, share)),
        }
        let rate = combine(table.shares.iter().map(|(_, share)| *share), now);
        // Relaxed: the word is all there is to know.
        self.threshold
            .store(table.levels.threshold(rate).to_bits(), Ordering::Relaxed);
    }

    fn threshold(&self) -> Threshold {
        Threshold::from_bits(self.threshold.load(Ordering::Relaxed))
    }
}

impl Default for SharedThreshold {
    fn default() -> Self {
        Self {
            threshold: AtomicU64::new(Threshold::default().to_bits()),
            table: Mutex::new(Table {
                levels: Levels::new(),
                shares: Vec::new(),
            }),
        }
    }
}

impl fmt::Debug for SharedCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedCut")
            .field(&self.inner.live.threshold())
            .finish()
    }
}
