//! The parts of an adaptive rate: a cubic curve, a meter, and a bucket.

use std::time::Duration;

use crate::instant::{Instant, nanos};

/// Replaces negative numbers and NaN with 0, and infinity with the largest number.
fn at_least_zero(value: f64) -> f64 {
    if value > 0.0 {
        value.min(f64::MAX)
    } else {
        0.0
    }
}

/// Converts to a duration: the longest if it is too long, zero if it is negative or NaN.
pub(super) fn seconds(seconds: f64) -> Duration {
    if seconds > 0.0 {
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    }
}

fn secs(later: Instant, earlier: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64()
}

/// The curve along which a rate grows back: `scale · (t − k)³ + max_rate`, `t` seconds after the last
/// throttled answer, with `k = ∛(max_rate · (1 − beta) / scale)`. It begins at `beta · max_rate` and is
/// back at `max_rate` after `k` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CubicCurve {
    beta: f64,
    scale: f64,
    max_rate: f64,
    plateau: f64,
    last_throttle: Instant,
}

impl CubicCurve {
    /// Continues the curve of `old` with the settings of this one.
    pub(super) const fn continue_from(&mut self, old: &Self) {
        self.max_rate = old.max_rate;
        self.plateau = old.plateau;
        self.last_throttle = old.last_throttle;
    }

    /// Returns the curve after an answer was throttled at `now`, at a rate of `max_rate`.
    ///
    /// A `beta` outside 0 to 1 counts as the nearer end, a `scale` that is not above 0 as the smallest positive number,
    /// and a negative rate or NaN as 0.
    pub fn new(now: Instant, beta: f64, scale: f64, max_rate: f64) -> Self {
        let mut curve = Self {
            beta: at_least_zero(beta).min(1.0),
            scale: at_least_zero(scale).max(f64::MIN_POSITIVE),
            max_rate: 0.0,
            plateau: 0.0,
            last_throttle: now,
        };
        curve.on_throttle(now, max_rate);
        curve
    }

    /// Returns the rate at `now`, after a good answer.
    pub fn on_success(&self, now: Instant) -> f64 {
        let since = secs(now, self.last_throttle) - self.plateau;
        at_least_zero(self.scale * since.powi(3) + self.max_rate)
    }

    /// Returns the rate after a throttled answer to calls at `current` per second: `beta` times that rate.
    pub fn on_throttle(&mut self, now: Instant, current: f64) -> f64 {
        self.max_rate = at_least_zero(current);
        self.plateau = (self.max_rate * (1.0 - self.beta) / self.scale).cbrt();
        self.last_throttle = now;
        self.max_rate * self.beta
    }

    /// Returns the rate at which the last answer was throttled.
    pub const fn max_rate(&self) -> f64 {
        self.max_rate
    }

    /// Returns how many seconds after a throttled answer the rate is back at [`max_rate`](Self::max_rate).
    pub const fn plateau(&self) -> f64 {
        self.plateau
    }

    /// Returns when an answer was last throttled.
    pub const fn last_throttle(&self) -> Instant {
        self.last_throttle
    }
}

/// Measures a rate by counts per window. The count of each window is mixed into the rate so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateMeter {
    window: u64,
    smoothing: f64,
    /// The number of the current window.
    current: u64,
    count: u64,
    rate: f64,
}

impl RateMeter {
    /// Continues the measurements of `old` with the settings of this one.
    pub(super) const fn continue_from(&mut self, old: &Self) {
        self.rate = old.rate;
        // Windows of another length have other numbers.
        if self.window == old.window {
            self.current = old.current;
            self.count = old.count;
        }
    }

    /// Returns a meter that counts from `now` on, in windows aligned to the clock. The last full window has the
    /// weight `smoothing`, all earlier ones the rest.
    ///
    /// A window of zero counts as a nanosecond, a smoothing outside 0 to 1 as the nearer end.
    pub fn new(now: Instant, window: Duration, smoothing: f64) -> Self {
        let window = nanos(window).max(1);
        Self {
            window,
            smoothing: at_least_zero(smoothing).min(1.0),
            current: now.as_nanos() / window,
            count: 0,
            rate: 0.0,
        }
    }

    /// Records `times` calls. Returns the rate per second.
    ///
    /// The rate changes with the first event in a new window, which counts for the windows before it.
    pub fn record(&mut self, now: Instant, times: u64) -> f64 {
        self.count = self.count.saturating_add(times);
        let window = now.as_nanos() / self.window;
        if window > self.current {
            let windows = Duration::from_nanos((window - self.current) * self.window);
            let recent = self.count as f64 / windows.as_secs_f64();
            self.rate = recent * self.smoothing + self.rate * (1.0 - self.smoothing);
            self.count = 0;
            self.current = window;
        }
        self.rate
    }

    /// Returns the rate per second.
    pub const fn rate(&self) -> f64 {
        self.rate
    }
}

/// A token bucket whose rate changes. Its capacity is what it earns in a second, but at least one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateBucket {
    rate: f64,
    min_rate: f64,
    capacity: f64,
    available: f64,
    filled: Instant,
}

/// Tokens are fractions: up to this share of a call may be missing.
const ROUNDING: f64 = 1e-9;

impl RateBucket {
    /// Continues the rate and the tokens of `old` with the settings of this one.
    pub(super) const fn continue_from(&mut self, old: &Self) {
        self.rate = old.rate.max(self.min_rate);
        self.capacity = old.capacity.max(self.min_rate);
        self.available = old.available;
        self.filled = old.filled;
    }

    /// Returns an empty bucket that fills from `now` on. Negative rates and NaN count as 0.
    pub fn new(now: Instant, rate: f64, min_rate: f64) -> Self {
        let mut bucket = Self {
            rate: 0.0,
            min_rate: at_least_zero(min_rate),
            capacity: 1.0,
            available: 0.0,
            filled: now,
        };
        bucket.set_rate(now, rate);
        bucket
    }

    /// Sets the rate, but not below the lowest rate. Tokens so far were earned at the old rate; tokens beyond one
    /// second of the new rate are lost.
    pub fn set_rate(&mut self, now: Instant, rate: f64) {
        self.fill(now);
        let rate = at_least_zero(rate);
        self.rate = rate.max(self.min_rate);
        self.capacity = rate.max(1.0);
        self.available = self.available.min(self.capacity);
    }

    /// Takes this many tokens if there are enough. A negative number counts as none.
    ///
    /// # Errors
    ///
    /// The time until there are enough at this rate; [`Duration::MAX`] if there never are.
    pub fn try_take(&mut self, now: Instant, tokens: f64) -> Result<(), Duration> {
        self.fill(now);
        let tokens = at_least_zero(tokens);
        let missing = tokens - self.available;
        if missing <= tokens * ROUNDING {
            self.available = (-missing).max(0.0);
            return Ok(());
        }
        if tokens > self.capacity {
            return Err(Duration::MAX);
        }
        Err(seconds(missing / self.rate).saturating_add(Duration::from_nanos(1)))
    }

    fn fill(&mut self, now: Instant) {
        let filled = self.available + secs(now, self.filled) * self.rate;
        self.available = filled.min(self.capacity);
        // An older reading earns nothing, and must not let the next one earn the same time twice.
        self.filled = self.filled.max(now);
    }

    /// Returns the tokens per second.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// Returns how many tokens a full bucket holds.
    pub const fn capacity(&self) -> f64 {
        self.capacity
    }

    /// Returns the tokens available when some were last taken or the rate last changed.
    pub const fn available(&self) -> f64 {
        self.available
    }
}
