//! One cut for several shedders.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::state::{Cut, Levels, Share, combine};
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
    /// Of those who shed.
    live: Line,
    /// Of them and of those in shadow mode, from when there are any.
    all: OnceLock<Line>,
    members: AtomicU64,
}

/// Where a cut is made.
struct Line {
    /// A [`Cut`] in one word.
    cut: AtomicU64,
    table: Mutex<Table>,
}

struct Table {
    levels: Levels,
    /// What each member said last, by its number.
    shares: Vec<(u64, Share)>,
}

impl SharedCut {
    /// A cut for shedders to share.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn join(self, is_shadow: bool) -> Member {
        if is_shadow {
            self.inner.all.get_or_init(Line::default);
        }
        Member {
            // Relaxed: a number of its own.
            number: self.inner.members.fetch_add(1, Ordering::Relaxed),
            is_shadow,
            cut: self,
            calls: AtomicU64::new(0),
        }
    }
}

/// One of those who share a cut.
pub(super) struct Member {
    cut: SharedCut,
    number: u64,
    is_shadow: bool,
    /// Since its last report.
    calls: AtomicU64,
}

impl Member {
    /// The lines it has a say in.
    fn lines(&self) -> impl Iterator<Item = &Line> {
        let shared = &*self.cut.inner;
        let live = (!self.is_shadow).then_some(&shared.live);
        live.into_iter().chain(shared.all.get())
    }

    pub(super) fn count(&self, priority: Priority) {
        // Relaxed: a weight.
        self.calls.fetch_add(1, Ordering::Relaxed);
        for line in self.lines() {
            lock(&line.table).levels.add(priority);
        }
    }

    /// Says what share of its calls in the last `over` it wants shed, which holds for `good_for`, and
    /// moves the cut.
    pub(super) fn report(&self, rate: f64, over: Duration, good_for: Duration, now: Instant) {
        let share = Share {
            calls: self.calls.swap(0, Ordering::Relaxed),
            over,
            rate,
            at: now,
            good_for,
        };
        for line in self.lines() {
            line.report(self.number, share, now);
        }
    }

    pub(super) fn cut(&self) -> Cut {
        let shared = &*self.cut.inner;
        let all = shared.all.get().filter(|_| self.is_shadow);
        all.unwrap_or(&shared.live).cut()
    }
}

impl Drop for Member {
    /// Its share no longer counts.
    fn drop(&mut self) {
        for line in self.lines() {
            let mut table = lock(&line.table);
            table.shares.retain(|(number, _)| *number != self.number);
        }
    }
}

impl Line {
    fn report(&self, number: u64, share: Share, now: Instant) {
        let mut table = lock(&self.table);
        match table.shares.iter_mut().find(|(of, _)| *of == number) {
            Some((_, last)) => *last = share,
            None => table.shares.push((number, share)),
        }
        let rate = combine(table.shares.iter().map(|(_, share)| *share), now);
        // Relaxed: the word is all there is to know.
        self.cut
            .store(table.levels.cut(rate).to_bits(), Ordering::Relaxed);
    }

    fn cut(&self) -> Cut {
        Cut::from_bits(self.cut.load(Ordering::Relaxed))
    }
}

impl Default for Line {
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
        f.debug_tuple("SharedCut")
            .field(&self.inner.live.cut())
            .finish()
    }
}
