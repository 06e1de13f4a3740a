//! The pace of a replay.

use std::time::Duration;

use crate::instant::{Instant, nanos};

/// Spreads letters evenly over time, at a rate.
///
/// Letter `n` is due at `base + n / rate`, always computed from the base, so that late wake-ups do not add up. A
/// delay longer than the slack moves the base, so that missed letters are not sent in a burst.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    rate: f64,
    base: Instant,
    sent: u64,
    slack: u64,
}

impl Pacer {
    /// Covers late timers, and one time slice of a busy machine.
    const SLACK: Duration = Duration::from_millis(20);

    /// Creates a pacer of this many letters a second, the first one at `now`.
    pub(crate) fn new(rate: f64, now: Instant) -> Self {
        // `as` saturates: an interval too long for the clock never ends.
        let interval = (1e9 / rate) as u64;
        Self {
            rate,
            base: now,
            sent: 0,
            slack: interval.saturating_add(nanos(Self::SLACK)),
        }
    }

    /// Returns the instant at which the next letter is due.
    pub(crate) fn due(&self) -> Instant {
        self.base.after((self.sent as f64 * 1e9 / self.rate) as u64)
    }

    /// Counts a letter that starts at `now`.
    pub(crate) fn start(&mut self, now: Instant) {
        let late = nanos(now.saturating_duration_since(self.due()));
        if late > self.slack {
            self.base = Instant::from_nanos(now.as_nanos() - self.slack);
            self.sent = 0;
        }
        self.sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn late_wake_ups_do_not_lower_the_rate() {
        let mut pacer = Pacer::new(200.0, Instant::ORIGIN);
        let mut now = Instant::ORIGIN;
        for _ in 0..10_000 {
            // Each wake-up is 1.3 ms late.
            now = pacer.due().max(now).after(1_300_000);
            pacer.start(now);
        }
        let took = now.as_nanos();
        assert!(took.abs_diff(50 * SECOND) < SECOND / 50, "{took}");
    }

    #[test]
    fn a_stall_is_not_caught_up_on() {
        let mut pacer = Pacer::new(100.0, Instant::ORIGIN);
        pacer.start(Instant::ORIGIN);
        let now = Instant::from_nanos(60 * SECOND);
        let mut at_once = 0;
        while pacer.due() <= now {
            pacer.start(now);
            at_once += 1;
        }
        // At most 20 ms and one interval of slack, and the letter that is due.
        assert!((3..=4).contains(&at_once), "{at_once}");
    }

    proptest! {
        #[test]
        fn letters_never_exceed_the_rate_and_the_slack(
            rate in 0.1_f64..5000.0,
            waits in prop::collection::vec(0_u64..100_000_000, 1..200),
        ) {
            let mut pacer = Pacer::new(rate, Instant::ORIGIN);
            let mut now = Instant::ORIGIN;
            let mut starts = Vec::new();
            for wait in waits {
                now = pacer.due().max(now.after(wait));
                pacer.start(now);
                starts.push(now.as_nanos());
            }
            let slack = 0.02 + 1.0 / rate;
            for (i, first) in starts.iter().enumerate() {
                let elapsed = (now.as_nanos() - first) as f64 / 1e9;
                let sent = (starts.len() - i) as f64;
                prop_assert!(sent <= (elapsed + slack) * rate + 1.01);
            }
        }
    }
}
