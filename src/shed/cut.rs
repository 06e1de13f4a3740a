//! One cut for several shedders.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::state::{Cut, Levels, Share, combine};
use crate::policy::Priority;
use crate::sync::{AtomicU64, Ordering, lock};

/// One cut for several shedders: give each a clone.
///
/// They share the distribution of priorities, and shed what they want shed together: the mean of
/// their shares, weighted by their calls. So a server with several bottlenecks sheds the same callers
/// at each, and no work is done at one that is thrown away at the next.
#[derive(Clone, Default)]
pub struct SharedCut {
    inner: Arc<Shared>,
}

struct Shared {
    /// A [`Cut`] in one word.
    cut: AtomicU64,
    table: Mutex<Table>,
}

struct Table {
    levels: Levels,
    /// What each member said last; `None` where one has left.
    shares: Vec<Option<Share>>,
}

impl SharedCut {
    /// A cut for shedders to share.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn join(self) -> Member {
        let index = {
            let mut table = lock(&self.inner.table);
            let free = table.shares.iter().position(Option::is_none);
            let index = free.unwrap_or(table.shares.len());
            if free.is_none() {
                table.shares.push(None);
            }
            table.shares[index] = Some(Share::default());
            index
        };
        Member {
            cut: self,
            index,
            calls: AtomicU64::new(0),
        }
    }
}

/// One of those who share a cut.
pub(super) struct Member {
    cut: SharedCut,
    index: usize,
    /// Since its last report.
    calls: AtomicU64,
}

impl Member {
    pub(super) fn count(&self, priority: Priority) {
        // Relaxed: a weight.
        self.calls.fetch_add(1, Ordering::Relaxed);
        lock(&self.cut.inner.table).levels.add(priority);
    }

    /// Says what share of its calls it wants shed, and moves the cut.
    pub(super) fn report(&self, rate: f64) {
        let calls = self.calls.swap(0, Ordering::Relaxed);
        let shared = &*self.cut.inner;
        let mut table = lock(&shared.table);
        table.shares[self.index] = Some(Share { calls, rate });
        let rate = combine(table.shares.iter().copied().flatten());
        // Relaxed: the word is all there is to know.
        shared
            .cut
            .store(table.levels.cut(rate).to_bits(), Ordering::Relaxed);
    }

    pub(super) fn cut(&self) -> Cut {
        Cut::from_bits(self.cut.inner.cut.load(Ordering::Relaxed))
    }
}

impl Drop for Member {
    /// Its share no longer counts.
    fn drop(&mut self) {
        lock(&self.cut.inner.table).shares[self.index] = None;
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            cut: AtomicU64::new(Cut::default().to_bits()),
            table: Mutex::new(Table {
                levels: Levels::new(),
                shares: Vec::new(),
            }),
        }
    }
}

impl fmt::Debug for SharedCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = Cut::from_bits(self.inner.cut.load(Ordering::Relaxed));
        f.debug_tuple("SharedCut").field(&cut).finish()
    }
}
