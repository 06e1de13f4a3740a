//! The leaky bucket as a queue: callers leave one per interval.

use super::{Grid, Inherit, Limit, REACH, Refusal, Standing};
use crate::instant::Instant;

/// When the next caller may leave. The callers themselves stand in the handle's queue.
///
/// A caller that costs `n` leaves when its turn has come, and the one behind it follows `n`
/// intervals later. Nothing is saved up while nobody comes, so there are no bursts.
#[derive(Clone, Debug)]
pub(crate) struct LeakyBucket {
    grid: Grid,
    /// The largest cost: no more than the queue may hold.
    largest: u64,
    /// In units of the grid.
    next: u64,
}

impl LeakyBucket {
    pub(crate) const fn new(grid: Grid, largest: u64) -> Self {
        Self {
            grid,
            largest,
            next: 0,
        }
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        // One caller leaves at a time under any setting, so only a reset makes a difference. What
        // is left of the interval stays as long as it is: it was earned at the old rate.
        let left = self.grid.instant(self.next);
        self.next = match inherit {
            Inherit::Reset => 0,
            _ => new.grid.units(left.max(now)),
        };
        self.grid = new.grid;
        self.largest = new.largest;
    }
}

impl Limit for LeakyBucket {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        if tokens > self.largest {
            return Err(Refusal::Never);
        }
        // Who only asks whether a debt is paid may do so an interval earlier than who comes next.
        let room = self.grid.price(debt) + self.grid.price(u64::from(tokens == 0));
        let free = self.next.saturating_sub(room);
        if free <= self.grid.units(now) {
            Ok(())
        } else {
            Err(Refusal::Until(self.grid.instant(free)))
        }
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        let now = self.grid.units(now);
        let next = self.next.max(now).saturating_add(self.grid.price(tokens));
        self.next = next.min(now.saturating_add(REACH));
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        self.next = self.next.saturating_sub(self.grid.price(tokens));
    }

    fn standing(&self, now: Instant) -> Standing {
        let backlog = self.next.saturating_sub(self.grid.units(now));
        let used = backlog.div_ceil(self.grid.cost());
        Standing::new(1, used, self.grid.instant(self.next).max(now))
    }
}
