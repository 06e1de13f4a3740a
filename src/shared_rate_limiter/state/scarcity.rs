//! Tells a limit that is used up for a moment from one that is used up all the time.

use crate::instant::Instant;

/// How often grants fell short lately: near 0 if they hardly ever did, near 1 if each did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scarcity {
    level: f64,
    at: Instant,
}

/// The weight of one shortage.
const WEIGHT: f64 = 0.1;
/// How fast shortages lose their weight, in times of a lease.
const DECAY: f64 = 20.0;
/// Below this, shortages are rare.
const RARE: f64 = 0.3;
/// From here on, pauses have their whole length.
const LASTING: f64 = 0.4;
/// The shortest pause, as a part of the whole one.
const SHORTEST: f64 = 0.1;

impl Scarcity {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            level: 0.0,
            at: now,
        }
    }

    /// Records a grant that fell short. `every` is the time of a lease in nanoseconds.
    pub(crate) fn record(&mut self, now: Instant, every: u64) {
        let level = self.level(now, every);
        self.level = level + (1.0 - level) * WEIGHT;
        self.at = now;
    }

    /// Returns whether the limit was not used up for long.
    pub(crate) fn is_rare(&self, now: Instant, every: u64) -> bool {
        self.level(now, every) < RARE
    }

    /// Shortens a pause: a shortage that may be over in a moment must not reject calls for the time of a lease.
    pub(crate) fn shorten(&self, pause: f64, now: Instant, every: u64) -> f64 {
        pause * (self.level(now, every) / LASTING).clamp(SHORTEST, 1.0)
    }

    fn level(&self, now: Instant, every: u64) -> f64 {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        self.level * (-passed / (DECAY * every as f64)).exp()
    }
}
