//! The pure machine: what was seen of the calls, the probability that comes of it, and the probe
//! that is due.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::{Slice, Sums, TimeWindow};

/// How the probability follows from the counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Above 0, at most 1.
    pub(super) success_threshold: f64,
    /// At least 1.
    pub(super) aggression: f64,
    /// From 0 to 1.
    pub(super) max_rejection: f64,
    pub(super) min_requests: u32,
    pub(super) min_rps: f64,
}

/// The calls in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// All of them.
    pub(super) requests: u64,
    /// Those that ended well.
    pub(super) accepts: u64,
    /// Those that ended badly.
    pub(super) failures: u64,
    /// Those that have not ended yet.
    pub(super) pending: u64,
    /// Those of them that have the benefit of the doubt.
    pub(super) young: u64,
    /// All of them, per second of the window.
    pub(super) per_second: f64,
}

impl Rule {
    /// `max(0, (requests − accepts / threshold) / (requests + 1)) ^ (1 / aggression)`, capped.
    ///
    /// The formula is Google's (SRE book, chapter "Handling Overload"), with K as the inverse of
    /// the threshold; the power and the least rate are those of Envoy's admission control.
    pub(super) fn probability(&self, seen: Seen) -> f64 {
        let requests = seen.requests.saturating_sub(seen.young);
        if requests < u64::from(self.min_requests) || seen.per_second < self.min_rps {
            return 0.0;
        }
        let requests = requests as f64;
        let surplus = requests - seen.accepts as f64 / self.success_threshold;
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

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Pass,
    /// It should have been refused, but none was let through for too long: since `last`, in nanoseconds.
    Probe {
        last: u64,
    },
    Refuse,
}

/// The window, the rule and the time of the last call that was let through.
#[derive(Debug)]
pub(super) struct State {
    rule: Rule,
    window: TimeWindow,
    /// Seconds.
    length: f64,
    /// In the current slice and this many before it, calls in flight have the benefit of the doubt.
    /// `None`: in none.
    young_slices: Option<u64>,
    /// Nanoseconds.
    probe_every: u64,
    /// When a call was let through while others were refused, in nanoseconds.
    last_pass: AtomicU64,
}

/// Kinds in the window. A call that ends counts as its result in the slice it began in; one that
/// says nothing is withdrawn from it.
const REQUESTS: usize = 0;
const ACCEPTED: usize = 1;
const FAILED: usize = 2;
const WITHDRAWN: usize = 3;

impl State {
    /// Slices are what [`TimeWindow::new`] takes.
    pub(super) fn new(
        rule: Rule,
        window: Duration,
        slices: u32,
        grace: Duration,
        probe_every: Duration,
    ) -> Self {
        let slice = (nanos(window) / u64::from(slices)).max(1);
        Self {
            rule,
            window: TimeWindow::new(window, slices, true, WITHDRAWN + 1),
            length: window.as_secs_f64(),
            young_slices: (!grace.is_zero()).then(|| nanos(grace).div_ceil(slice)),
            probe_every: nanos(probe_every),
            last_pass: AtomicU64::new(0),
        }
    }

    /// The length of the window.
    pub(super) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.length)
    }

    /// Returns what is in the window. Changes nothing.
    pub(super) fn seen(&self, now: Instant) -> Seen {
        let sums = self.window.sums_at(now);
        let pending = pending(sums);
        let young = self.young_slices.map_or(0, |before| {
            pending.min(self::pending(self.window.sums_of_latest(before, now)))
        });
        let requests = sums[ACCEPTED] + sums[FAILED] + pending;
        Seen {
            requests,
            accepts: sums[ACCEPTED],
            failures: sums[FAILED],
            pending,
            young,
            per_second: requests as f64 / self.length,
        }
    }

    pub(super) fn probability(&self, seen: Seen) -> f64 {
        self.rule.probability(seen)
    }

    pub(super) const fn max_rejection(&self) -> f64 {
        self.rule.max_rejection
    }

    /// Decides about a call. `draw` returns a number from 0 to 1, without 1; it is called only when
    /// there is something to decide.
    #[inline]
    pub(super) fn decide(&self, now: Instant, draw: impl FnOnce() -> f64) -> Decision {
        let probability = self.rule.probability(self.seen(now));
        if probability <= 0.0 {
            return Decision::Pass;
        }
        let now = now.as_nanos();
        // Relaxed: nothing but this number is shared through it.
        let last = self.last_pass.load(Ordering::Relaxed);
        if draw() >= probability {
            if last != now {
                self.last_pass.store(now, Ordering::Relaxed);
            }
            return Decision::Pass;
        }
        if now.saturating_sub(last) < self.probe_every {
            return Decision::Refuse;
        }
        let won = self
            .last_pass
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        match won {
            Ok(_) => Decision::Probe { last },
            Err(_) => Decision::Refuse,
        }
    }

    /// Takes back the probe that was decided on at `now`: none was admitted since `last`, unless one was since.
    pub(super) fn withdraw_probe(&self, now: Instant, last: u64) {
        // Relaxed: as in `decide`. A failure means that a later call was admitted.
        let _ = self.last_pass.compare_exchange(
            now.as_nanos(),
            last,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Counts a call that starts.
    #[inline]
    pub(super) fn begin(&self, now: Instant) -> Slice {
        self.window.advance(now);
        let slice = self.window.newest();
        self.window.add(REQUESTS, 1);
        slice
    }

    /// Counts the end of a call: well, badly, or so that it says nothing.
    #[inline]
    pub(super) fn end(&self, slice: Slice, accepted: Option<bool>) {
        let kind = match accepted {
            Some(true) => ACCEPTED,
            Some(false) => FAILED,
            None => WITHDRAWN,
        };
        self.window.add_to(slice, kind);
    }

    /// Counts a call that starts and ends at once.
    pub(super) fn record(&self, accepted: bool, now: Instant) {
        let slice = self.begin(now);
        self.end(slice, Some(accepted));
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.window.clear();
        self.last_pass.store(0, Ordering::Relaxed);
    }
}

fn pending(sums: Sums) -> u64 {
    sums[REQUESTS].saturating_sub(sums[ACCEPTED] + sums[FAILED] + sums[WITHDRAWN])
}
