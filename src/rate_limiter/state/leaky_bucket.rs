//! The leaky bucket as a queue: one call per interval.

use super::exact_rate::{ExactRate, REACH};
use super::limit::{Availability, Inherit, Limit, Unavailable};
use crate::instant::Instant;

/// The time of the next call. The wait queue of the handle holds the calls.
///
/// A call that costs `n` runs at its turn, and the next turn comes `n` intervals later. Idle time earns
/// nothing, so there are no bursts.
#[derive(Clone, Debug)]
pub(crate) struct LeakyBucket {
    rate: ExactRate,
    /// The largest cost, which is what the queue may hold.
    largest: u64,
    /// The next turn, in units of the rate.
    next: u64,
}

impl LeakyBucket {
    pub(crate) const fn new(rate: ExactRate, largest: u64) -> Self {
        Self {
            rate,
            largest,
            next: 0,
        }
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        // At any rate, one call runs at a time, so only a reset makes a difference. What is left of the turns that were
        // taken is a number of tokens, which drain at the new rate.
        let used = self.next.saturating_sub(self.rate.units(now));
        self.next = match inherit {
            Inherit::Reset => 0,
            _ => new
                .rate
                .units(now)
                .saturating_add(self.rate.convert(used, &new.rate)),
        };
        self.rate = new.rate;
        self.largest = new.largest;
    }
}

impl Limit for LeakyBucket {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        if tokens > self.largest {
            return Err(Unavailable::Never);
        }
        // A debt counts as paid one interval before the next turn.
        let early = debt.saturating_add(u64::from(tokens == 0));
        let room = self.rate.price(early);
        let free = self.next.saturating_sub(room);
        if free <= self.rate.units(now) {
            Ok(())
        } else {
            Err(Unavailable::Until(self.rate.instant(free)))
        }
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        let now = self.rate.units(now);
        let next = self.next.max(now).saturating_add(self.rate.price(tokens));
        self.next = next.min(now.saturating_add(REACH));
    }

    fn force_take_all(&mut self, now: Instant, tokens: u64) -> bool {
        self.force_take(now, tokens);
        true
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        self.next = self.next.saturating_sub(self.rate.price(tokens));
    }

    fn availability(&self, now: Instant) -> Availability {
        let backlog = self.next.saturating_sub(self.rate.units(now));
        let used = backlog.div_ceil(self.rate.cost());
        let full_at = self.rate.instant(self.next).max(now);
        Availability::new(1, used, full_at, self.rate.time(self.rate.cost()))
    }
}
