//! Pure state: the totals of the window, the probability of a rejection, and forced probes.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::{Slice, Sums, TimeWindow};

/// The rule that gives the probability of a rejection.
#[derive(Clone, Copy, Debug)]
pub(super) struct RejectionRule {
    /// Above 0, at most 1.
    pub(super) success_threshold: f64,
    /// At least 1.
    pub(super) aggression: f64,
    /// From 0 to 1.
    pub(super) max_rejection: f64,
    pub(super) min_calls: u32,
    pub(super) min_calls_per_second: f64,
}

/// The calls in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Number of calls.
    pub(super) requests: u64,
    /// Calls that succeeded.
    pub(super) accepts: u64,
    /// Calls that failed.
    pub(super) failures: u64,
    /// Calls that have not ended yet.
    pub(super) in_flight: u64,
    /// Calls in flight that are within their grace.
    pub(super) in_grace: u64,
    /// [`requests`](Self::requests) per second of the window.
    pub(super) per_second: f64,
}

impl RejectionRule {
    /// Returns `max(0, (requests − accepts / threshold) / (requests + 1)) ^ (1 / aggression)`, capped.
    ///
    /// The formula is from the SRE book, chapter "Handling Overload", with K as the inverse of the threshold.
    /// The power and `min_calls_per_second` are from Envoy's admission control.
    pub(super) fn probability(&self, totals: Totals) -> f64 {
        let requests = totals.requests.saturating_sub(totals.in_grace);
        if requests < u64::from(self.min_calls) || totals.per_second < self.min_calls_per_second {
            return 0.0;
        }
        let requests = requests as f64;
        let surplus = requests - totals.accepts as f64 / self.success_threshold;
        if surplus <= 0.0 {
            return 0.0;
        }
        let probability = surplus / (requests + 1.0);
        let probability = if self.aggression == 1.0 {
            probability
        } else {
            probability.powf(self.aggression.recip())
        };
        probability.min(self.max_rejection)
    }
}

/// The answer to a call that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// Admitted instead of rejected, because no call has been admitted for too long: since `last_admitted`, in
    /// nanoseconds, or [`NEVER`].
    Probe {
        last_admitted: u64,
    },
    Rejected,
}

/// The window, the rule, and the time of the last admission.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rule: RejectionRule,
    window: TimeWindow,
    /// Length of the window.
    length: Duration,
    /// The number of slices before the current one in which calls in flight are within their grace. `None`:
    /// there is no grace.
    grace_slices: Option<u64>,
    /// Nanoseconds.
    probe_every: u64,
    /// When a call was last admitted while others were rejected, in nanoseconds, or [`NEVER`].
    last_admitted: AtomicU64,
}

/// No call has been admitted while others were rejected.
pub(super) const NEVER: u64 = u64::MAX;

/// Kinds in the window. The result of a call counts in the slice in which the call began. A neutral result
/// withdraws the request from that slice.
const REQUESTS: usize = 0;
const ACCEPTED: usize = 1;
const FAILED: usize = 2;
const WITHDRAWN: usize = 3;

impl State {
    pub(super) fn new(
        rule: RejectionRule,
        window: Duration,
        slices: u32,
        grace: Duration,
        probe_every: Duration,
    ) -> Self {
        let slice = (nanos(window) / u64::from(slices)).max(1);
        Self {
            rule,
            window: TimeWindow::new(window, slices, true, WITHDRAWN + 1),
            length: window,
            grace_slices: (!grace.is_zero()).then(|| nanos(grace).div_ceil(slice)),
            probe_every: nanos(probe_every),
            last_admitted: AtomicU64::new(NEVER),
        }
    }

    /// Returns the length of the window.
    pub(super) const fn window(&self) -> Duration {
        self.length
    }

    /// Returns the content of the window. Changes nothing.
    pub(super) fn totals(&self, now: Instant) -> Totals {
        let sums = self.window.sums_at(now);
        let in_flight = in_flight(sums);
        let in_grace = self.grace_slices.map_or(0, |before| {
            in_flight.min(self::in_flight(self.window.sums_of_latest(before, now)))
        });
        let requests = sums[ACCEPTED] + sums[FAILED] + in_flight;
        Totals {
            requests,
            accepts: sums[ACCEPTED],
            failures: sums[FAILED],
            in_flight,
            in_grace,
            per_second: requests as f64 / self.length.as_secs_f64(),
        }
    }

    /// Admits a call or rejects it. `draw` returns a number in `[0, 1)`; it is called only if the probability
    /// of a rejection is above zero.
    #[inline]
    pub(super) fn admit(&self, now: Instant, draw: impl FnOnce() -> f64) -> Admission {
        let probability = self.rule.probability(self.totals(now));
        if probability <= 0.0 {
            return Admission::Admitted;
        }
        let now = now.as_nanos();
        // Relaxed: the value orders nothing else.
        let last_admitted = self.last_admitted.load(Ordering::Relaxed);
        if draw() >= probability {
            if last_admitted != now {
                self.last_admitted.store(now, Ordering::Relaxed);
            }
            return Admission::Admitted;
        }
        let is_due = match last_admitted {
            NEVER => self.probe_every != u64::MAX,
            last_admitted => now.saturating_sub(last_admitted) >= self.probe_every,
        };
        if !is_due {
            return Admission::Rejected;
        }
        // If calls race, the exchange lets one of them become the probe.
        match self.replace_last_admitted(last_admitted, now) {
            true => Admission::Probe { last_admitted },
            false => Admission::Rejected,
        }
    }

    /// Withdraws the probe that was admitted at `now`, unless another call has been admitted since.
    pub(super) fn withdraw_probe(&self, now: Instant, last_admitted: u64) {
        self.replace_last_admitted(now.as_nanos(), last_admitted);
    }

    fn replace_last_admitted(&self, old: u64, new: u64) -> bool {
        self.last_admitted
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Counts a call that starts. Returns the slice in which its result will count.
    #[inline]
    pub(super) fn start(&self, now: Instant) -> Slice {
        self.window.advance(now);
        let slice = self.window.newest();
        self.window.add(REQUESTS, 1);
        slice
    }

    /// Counts the result of a call; `None` withdraws its request.
    #[inline]
    pub(super) fn finish(&self, slice: Slice, accepted: Option<bool>) {
        let kind = match accepted {
            Some(true) => ACCEPTED,
            Some(false) => FAILED,
            None => WITHDRAWN,
        };
        self.window.add_to(slice, kind);
    }

    /// Counts a call together with its result.
    pub(super) fn record(&self, accepted: bool, now: Instant) {
        let slice = self.start(now);
        self.finish(slice, Some(accepted));
    }

    /// Resets all counts.
    pub(super) fn reset(&self) {
        self.window.clear();
        self.last_admitted.store(NEVER, Ordering::Relaxed);
    }
}

fn in_flight(sums: Sums) -> u64 {
    sums[REQUESTS].saturating_sub(sums[ACCEPTED] + sums[FAILED] + sums[WITHDRAWN])
}
