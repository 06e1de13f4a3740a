//! The pure machine: what was seen of the calls, the probability that comes of it, and the probe
//! that is due.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::{Sample, Slice, TimeWindow, Tracks};

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
    /// It should have been refused, but none was let through for too long.
    Probe,
    Refuse,
}

/// The window, the rule and the time of the last call that was let through.
#[derive(Debug)]
pub(super) struct State {
    rule: Rule,
    window: TimeWindow,
    /// Seconds.
    length: f64,
    /// In the present slice and as many before it, calls in flight have the benefit of the doubt.
    /// `None`: in none.
    young_slices: Option<u64>,
    /// Nanoseconds.
    probe_every: u64,
    /// When a call was let through while others were refused, in nanoseconds.
    last_pass: AtomicU64,
}

impl State {
    /// The length of the window.
    pub(super) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.length)
    }
}

/// A call in flight: the window's slow calls are those.
const PENDING: Sample = Sample {
    failed: false,
    slow: true,
    took: 0,
};
const FAILED: Sample = Sample {
    failed: true,
    slow: false,
    took: 0,
};
const ACCEPTED: Sample = Sample {
    failed: false,
    slow: false,
    took: 0,
};

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
        let tracks = Tracks {
            slow: true,
            durations: false,
        };
        Self {
            rule,
            window: TimeWindow::new(window, slices, true, tracks),
            length: window.as_secs_f64(),
            young_slices: (!grace.is_zero()).then(|| nanos(grace).div_ceil(slice)),
            probe_every: nanos(probe_every),
            last_pass: AtomicU64::new(0),
        }
    }

    /// What is in the window. Changes nothing.
    pub(super) fn seen(&self, now: Instant) -> Seen {
        let counts = self.window.counts(now);
        let young = match self.young_slices {
            Some(before) => self.window.slow_in_latest(before, now).min(counts.slow),
            None => 0,
        };
        Seen {
            requests: counts.calls,
            accepts: counts.calls - counts.failures - counts.slow,
            failures: counts.failures,
            pending: counts.slow,
            young,
            per_second: counts.calls as f64 / self.length,
        }
    }

    pub(super) fn probability(&self, seen: Seen) -> f64 {
        self.rule.probability(seen)
    }

    pub(super) const fn max_rejection(&self) -> f64 {
        self.rule.max_rejection
    }

    /// Decides about a call. `draw` gives a number from 0 to 1, without 1; it is asked only when
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
        // On a clock that was set back the last one may be in the future.
        if now.abs_diff(last) < self.probe_every {
            return Decision::Refuse;
        }
        let won = self
            .last_pass
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        match won {
            Ok(_) => Decision::Probe,
            Err(_) => Decision::Refuse,
        }
    }

    /// A call starts.
    #[inline]
    pub(super) fn begin(&self, now: Instant) -> Slice {
        self.window.record_into(PENDING, now)
    }

    /// A call has ended: well, badly, or so that it says nothing.
    #[inline]
    pub(super) fn end(&self, slice: Slice, accepted: Option<bool>) {
        let to = accepted.map(|accepted| if accepted { ACCEPTED } else { FAILED });
        self.window.amend(slice, PENDING, to);
    }

    /// A call that starts and ends at once.
    pub(super) fn record(&self, accepted: bool, now: Instant) {
        let sample = if accepted { ACCEPTED } else { FAILED };
        self.window.record(sample, now);
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.window.clear();
        self.last_pass.store(0, Ordering::Relaxed);
    }
}
