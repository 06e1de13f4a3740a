//! The priority threshold of one or several shedders.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::state::{Levels, Share, Threshold, combine};
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::{AtomicU64, Ordering, lock};

/// A priority threshold shared by several shedders. Give a clone to each builder.
///
/// The shedders share the distribution of priorities. The threshold sheds the mean of their shares, weighted by
/// calls per second. So a server with several bottlenecks sheds the same calls at each of them, and no work done at
/// one bottleneck is discarded at the next.
///
/// The share of a shedder expires one cool-off after its last update, so a shedder without calls sheds none of the
/// others'. Shedders in shadow mode do not influence the others. They use a second threshold, which includes their
/// shares. All shedders should use one clock.
#[derive(Clone, Default)]
pub struct SharedThreshold {
    inner: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Shedders that reject calls.
    live: Group,
    /// These and the shedders in shadow mode. Set once there are any.
    all: OnceLock<Group>,
    participants: AtomicU64,
}

/// Participants with a common threshold.
struct Group {
    /// A packed [`Threshold`].
    threshold: AtomicU64,
    table: Mutex<Table>,
}

struct Table {
    levels: Levels,
    /// Number and last report of each participant.
    shares: Vec<(u64, Share)>,
}

impl SharedThreshold {
    /// Returns a threshold for shedders to share.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn join(self, is_shadow: bool) -> Participant {
        if is_shadow {
            self.inner.all.get_or_init(Group::default);
        }
        Participant {
            // Relaxed: only uniqueness matters.
            number: self.inner.participants.fetch_add(1, Ordering::Relaxed),
            is_shadow,
            shared: self,
            calls: AtomicU64::new(0),
        }
    }
}

/// A shedder, as a participant in a threshold.
pub(super) struct Participant {
    shared: SharedThreshold,
    number: u64,
    is_shadow: bool,
    /// Number of calls since the last report.
    calls: AtomicU64,
}

impl Participant {
    /// Returns the groups that its share counts in.
    fn groups(&self) -> impl Iterator<Item = &Group> {
        let shared = &*self.shared.inner;
        let live = (!self.is_shadow).then_some(&shared.live);
        live.into_iter().chain(shared.all.get())
    }

    pub(super) fn count(&self, priority: Priority) {
        // Relaxed: a statistical weight.
        self.calls.fetch_add(1, Ordering::Relaxed);
        for group in self.groups() {
            lock(&group.table).levels.add(priority);
        }
    }

    /// Reports `rate`, the share of its calls in the last `over` that it wants to shed, and updates the threshold.
    /// The report expires after `good_for`.
    pub(super) fn report(&self, rate: f64, over: Duration, good_for: Duration, now: Instant) {
        let share = Share {
            calls: self.calls.swap(0, Ordering::Relaxed),
            over,
            rate,
            at: now,
            good_for,
        };
        for group in self.groups() {
            group.report(self.number, share, now);
        }
    }

    pub(super) fn threshold(&self) -> Threshold {
        let shared = &*self.shared.inner;
        let all = shared.all.get().filter(|_| self.is_shadow);
        all.unwrap_or(&shared.live).threshold()
    }
}

impl Drop for Participant {
    /// Removes its share.
    fn drop(&mut self) {
        for group in self.groups() {
            let mut table = lock(&group.table);
            table.shares.retain(|(number, _)| *number != self.number);
        }
    }
}

impl Group {
    fn report(&self, number: u64, share: Share, now: Instant) {
        let mut table = lock(&self.table);
        match table.shares.iter_mut().find(|(of, _)| *of == number) {
            Some((_, last)) => *last = share,
            None => table.shares.push((number, share)),
        }
        let rate = combine(table.shares.iter().map(|(_, share)| *share), now);
        // Relaxed: the word publishes nothing else.
        self.threshold
            .store(table.levels.threshold(rate).to_bits(), Ordering::Relaxed);
    }

    fn threshold(&self) -> Threshold {
        Threshold::from_bits(self.threshold.load(Ordering::Relaxed))
    }
}

impl Default for Group {
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

impl fmt::Debug for SharedThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedThreshold")
            .field(&self.inner.live.threshold())
            .finish()
    }
}
