//! A rate that comes up slowly after a pause, for dependencies that are slow while cold.
//!
//! The formulas are those of Guava's `SmoothWarmingUp`, which Sentinel took over: the longer nobody
//! came, the more permits are stored, and stored permits above a threshold cost more than the
//! interval of the rate, up to `cold` times as much.
//!
//! ```text
//!   interval
//!   cold x T ┤              ╱
//!            │            ╱ │
//!          T ┤──────────╱   │       the area under the line is the time that
//!            │          │   │       taking the stored permits takes
//!            └──────────┴───┴── stored permits
//!                threshold  all
//! ```

use std::time::Duration;

use super::{Inherit, Limit, Refusal, Standing};
use crate::clock::{Instant, nanos};

/// Callers leave one after the other, in intervals that shrink while the limit warms up.
#[derive(Clone, Debug)]
pub(crate) struct WarmUp {
    /// Nanoseconds of a permit when warm.
    interval: f64,
    /// The largest cost.
    largest: u64,
    threshold: f64,
    all: f64,
    slope: f64,
    /// Nanoseconds in which a permit is stored.
    store: f64,
    stored: f64,
    /// When the next caller may leave: nanoseconds, and what is left below one.
    next: u64,
    carry: f64,
}

impl WarmUp {
    /// `tokens` per `period` when warm, which takes `warm_up`; `cold` times slower when cold. It
    /// begins cold.
    pub(crate) fn new(
        tokens: u64,
        period: Duration,
        largest: u64,
        warm_up: Duration,
        cold: u32,
    ) -> Self {
        let interval = nanos(period) as f64 / tokens as f64;
        let (warm_up, cold) = (nanos(warm_up) as f64, f64::from(cold));
        let threshold = 0.5 * warm_up / interval;
        let all = threshold + 2.0 * warm_up / (interval * (1.0 + cold));
        Self {
            interval,
            largest,
            threshold,
            all,
            slope: interval * (cold - 1.0) / (all - threshold),
            store: warm_up / all,
            stored: all,
            next: 0,
            carry: 0.0,
        }
    }

    /// The permits stored at `now`.
    fn stored(&self, now: Instant) -> f64 {
        let idle = now.as_nanos().saturating_sub(self.next) as f64;
        (self.stored + idle / self.store).min(self.all)
    }

    /// The time that taking `tokens` takes, when `stored` are stored.
    fn time(&self, stored: f64, tokens: u64) -> f64 {
        let tokens = tokens as f64;
        let above = (stored - self.threshold).max(0.0);
        let costly = above.min(tokens);
        // A trapezium: from the height at `above` to the height at `above - costly`.
        let dear = costly * (self.interval + self.slope * (above - costly / 2.0));
        dear + (tokens - costly) * self.interval
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        let share = self.stored(now) / self.all;
        let next = self.next.max(now.as_nanos());
        *self = new;
        if inherit != Inherit::Reset {
            // As warm as it was, and not before what has been taken is paid for.
            self.stored = share * self.all;
            self.next = next;
        }
    }
}

impl Limit for WarmUp {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        if tokens > self.largest {
            return Err(Refusal::Never);
        }
        let early = debt.saturating_add(u64::from(tokens == 0)) as f64 * self.interval;
        let free = self.next.saturating_sub(early as u64);
        if free <= now.as_nanos() {
            Ok(())
        } else {
            Err(Refusal::Until(Instant::from_nanos(free)))
        }
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        self.stored = self.stored(now);
        if self.next < now.as_nanos() {
            self.next = now.as_nanos();
            self.carry = 0.0;
        }
        let time = self.time(self.stored, tokens) + self.carry;
        // `as` saturates.
        self.next = self.next.saturating_add(time as u64);
        self.carry = time.fract();
        self.stored = (self.stored - tokens as f64).max(0.0);
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        let time = tokens as f64 * self.interval;
        self.next = self.next.saturating_sub(time as u64);
    }

    fn standing(&self, now: Instant) -> Standing {
        let backlog = self.next.saturating_sub(now.as_nanos()) as f64;
        let used = (backlog / self.interval).ceil() as u64;
        Standing::new(1, used, Instant::from_nanos(self.next).max(now))
    }
}
