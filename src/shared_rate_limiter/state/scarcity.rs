//! Distinguishes a limit that is briefly used up from one that is permanently used up.

use crate::instant::Instant;

/// A decaying average of how often grants fell short: 0 is never, 1 is always.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scarcity {
    level: f64,
    at: Instant,
}

/// Weight of one shortage.
const WEIGHT: f64 = 0.06;
/// Time constant of the decay, in lengths of a lease.
const DECAY: f64 = 14.0;
/// Shortages are rare below this value.
const RARE: f64 = 0.3;
/// From this value on, pauses are not shortened.
const LASTING: f64 = 0.4;
/// The shortest pause, as a share of the full one.
const SHORTEST: f64 = 0.1;

impl Scarcity {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            level: 0.0,
            at: now,
        }
    }

    /// Records a grant that fell short. `every` is the length of a lease in nanoseconds.
    pub(crate) fn record(&mut self, now: Instant, every: u64) {
        let level = self.level(now, every);
        self.level = level + (1.0 - level) * WEIGHT;
        self.at = now;
    }

    /// Returns whether shortages are rare.
    pub(crate) fn is_rare(&self, now: Instant, every: u64) -> bool {
        self.level(now, every) < RARE
    }

    /// Shortens a pause while shortages are rare: a brief one must not reject calls for the whole length of a lease.
    pub(crate) fn shorten(&self, pause: f64, now: Instant, every: u64) -> f64 {
        pause * (self.level(now, every) / LASTING).clamp(SHORTEST, 1.0)
    }

    fn level(&self, now: Instant, every: u64) -> f64 {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        self.level * (-passed / (DECAY * every as f64)).exp()
    }
}
