//! Adapts a rate to a dependency that throttles.
//!
//! # What it protects
//!
//! Protects a dependency whose rate limit is unknown or changes. Each throttled answer lowers the rate at once. Then
//! the rate grows back along a cubic curve: fast at first, flat near the rate that was too much, and fast again beyond
//! it.
//!
//! ```text
//!  rate │ throttled                       ╱
//!       │────╮ ······························╭──╯····  the rate that was too much
//!       │    │             ╭────────╯
//!       │    │        ╭──╯
//!       │    ╰─────╯  decrease_factor × that rate
//!       └───────────────────────────────────► time
//! ```
//!
//! # When not to use it
//!
//! * If the limit is known: give it to a [rate limiter](crate::RateLimiter).
//! * If the dependency slows down instead of throttling: use an adaptive
//!   [bulkhead](crate::bulkhead::limit), which measures latency.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Clock, ManualClock};
//! use backstop::adaptive_rate::CubicRate;
//!
//! let clock = ManualClock::new();
//! let mut rate = CubicRate::builder().build(clock.now())?;
//!
//! // Twenty calls a second succeed: nothing is limited.
//! for _ in 0..40 {
//!     clock.advance(Duration::from_millis(50));
//!     assert_eq!(rate.on_response(clock.now(), false), None);
//! }
//! // One is throttled: now the rate is 0.7 of that.
//! let limit = rate.on_response(clock.now(), true).unwrap();
//! assert!((13.0..14.0).contains(&limit), "{limit}");
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # With a rate limiter
//!
//! [`RateLimiterBuilder::adaptive`](crate::rate_limiter::RateLimiterBuilder::adaptive) does it all: the
//! limiter records the results of its calls and changes its quota.
//!
//! ```
//! use backstop::adaptive_rate::CubicRate;
//! use backstop::{ManualClock, RateLimiter};
//!
//! let limiter = RateLimiter::builder()
//!     .adaptive(CubicRate::builder().decrease_factor(0.5))
//!     .clock(ManualClock::new())
//!     .build()?;
//! assert!(limiter.try_acquire().is_ok());
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! The same without `adaptive`:
//!
//! ```
//! use std::sync::Mutex;
//! use std::time::Duration;
//! use backstop::adaptive_rate::CubicRate;
//! use backstop::rate_limiter::{Inherit, Quota};
//! use backstop::{Clock, ConfigError, ManualClock, RateLimiter};
//!
//! let clock = ManualClock::new();
//! let limiter = RateLimiter::builder()
//!     .quota(Quota::per_second(1_000_000)) // as good as none
//!     .clock(clock.clone())
//!     .build()?;
//! let rate = Mutex::new(CubicRate::builder().build(clock.now())?);
//!
//! // After each attempt:
//! let answered = |throttled: bool| -> Result<(), ConfigError> {
//!     let mut rate = rate.lock().unwrap();
//!     rate.on_response(clock.now(), throttled);
//!     if let Some(interval) = rate.interval() {
//!         let burst = rate.bucket().capacity() as u64;
//!         limiter.set_quota(Quota::new(1, interval).burst(burst), Inherit::AsIs)?;
//!     }
//!     Ok(())
//! };
//!
//! for _ in 0..40 {
//!     clock.advance(Duration::from_millis(50));
//!     limiter.try_acquire().unwrap();
//!     answered(false)?;
//! }
//! answered(true)?;
//! assert_eq!(limiter.snapshot().remaining, 13);
//! # Ok::<(), ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `decrease_factor` | 0.7 |
//! | `scale` | 0.4 |
//! | `smoothing` | 0.8 |
//! | `window` | 500 ms |
//! | `min_rate` | 0.5 a second |
//!
//! # With other policies
//!
//! * It is a pure machine: it reads no clock and holds no lock. Keep it in a mutex, and record each
//!   answer.
//! * It **feeds a [rate limiter](crate::RateLimiter)**, as above. Or use its own bucket,
//!   [`CubicRate::try_take`].
//! * **Inside a retry**, so that it sees each attempt.
//!
//! # Source
//!
//! The client rate limiter of the AWS SDKs' adaptive retry mode (Go, botocore, smithy-rs), after CUBIC
//! for TCP (RFC 9438), with one change: there the first window begins at a whole second, here at a
//! whole window.

mod cubic;
#[cfg(all(test, not(backstop_loom)))]
mod tests;

use std::time::Duration;

pub use self::cubic::{CubicCurve, RateBucket, RateMeter};

use self::cubic::seconds;

use crate::error::ConfigError;
use crate::instant::Instant;

/// The rate never exceeds the measured rate by more than this factor.
const HEADROOM: f64 = 2.0;

/// Finds the rate that a dependency accepts. See the [module page](self).
#[derive(Clone, Debug, PartialEq)]
pub struct CubicRate {
    curve: CubicCurve,
    meter: RateMeter,
    bucket: RateBucket,
    limiting: bool,
}

impl CubicRate {
    /// Returns a builder with the default settings.
    pub const fn builder() -> CubicRateBuilder {
        CubicRateBuilder {
            decrease_factor: 0.7,
            scale: 0.4,
            smoothing: 0.8,
            window: Duration::from_millis(500),
            min_rate: 0.5,
        }
    }

    /// Records an answer. Returns the new rate in calls per second; `None` until an answer is throttled.
    pub fn on_response(&mut self, now: Instant, throttled: bool) -> Option<f64> {
        let measured = self.meter.record(now, 1);
        let rate = if throttled {
            let used = match self.rate() {
                Some(rate) => measured.min(rate),
                None => measured,
            };
            self.limiting = true;
            self.curve.on_throttle(now, used)
        } else {
            self.curve.on_success(now)
        };
        self.bucket.set_rate(now, rate.min(HEADROOM * measured));
        self.rate()
    }

    /// Continues from `old` with the settings of this one.
    pub(crate) const fn continue_from(&mut self, old: &Self) {
        self.curve.continue_from(&old.curve);
        self.meter.continue_from(&old.meter);
        self.bucket.continue_from(&old.bucket);
        self.limiting = old.limiting;
    }

    /// Returns the rate in calls per second; `None` until an answer is throttled.
    pub fn rate(&self) -> Option<f64> {
        self.limiting.then_some(self.bucket.rate())
    }

    /// Returns the time between two calls at this rate, at least a nanosecond; `None` until an answer is
    /// throttled.
    pub fn interval(&self) -> Option<Duration> {
        let interval = seconds(self.rate()?.recip());
        Some(interval.max(Duration::from_nanos(1)))
    }

    /// Takes `tokens` from a bucket that fills at the rate and holds what it earns in a second, at least
    /// one. Always succeeds until an answer is throttled.
    ///
    /// # Errors
    ///
    /// As for [`RateBucket::try_take`].
    pub fn try_take(&mut self, now: Instant, tokens: f64) -> Result<(), Duration> {
        if self.limiting {
            self.bucket.try_take(now, tokens)
        } else {
            Ok(())
        }
    }

    /// Returns the meter of the rate of answers.
    pub const fn meter(&self) -> &RateMeter {
        &self.meter
    }

    /// Returns the curve along which the rate grows.
    pub const fn curve(&self) -> &CubicCurve {
        &self.curve
    }

    /// Returns the bucket that fills at the rate, also before it limits anything.
    pub const fn bucket(&self) -> &RateBucket {
        &self.bucket
    }
}

/// Builds a [`CubicRate`]. The [page](self) lists the defaults.
#[derive(Clone, Copy, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct CubicRateBuilder {
    decrease_factor: f64,
    scale: f64,
    smoothing: f64,
    window: Duration,
    min_rate: f64,
}

crate::debug::debug_settings!(CubicRateBuilder { decrease_factor, scale, smoothing, min_rate; window });

impl CubicRateBuilder {
    /// Sets the factor of the rate after a throttled answer: 0 to 1.
    pub const fn decrease_factor(mut self, factor: f64) -> Self {
        self.decrease_factor = factor;
        self
    }

    /// Sets how quickly the rate grows, in calls per second per cubed second.
    pub const fn scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Sets the weight of the last window in the measured rate, against all earlier windows: above 0, at most 1.
    pub const fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// Sets the length of the windows in which the rate is measured.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the lowest rate, in calls per second.
    pub const fn min_rate(mut self, rate: f64) -> Self {
        self.min_rate = rate;
        self
    }

    /// Builds the state machine, which measures from `now` on.
    ///
    /// # Errors
    ///
    /// If `decrease_factor` is outside 0 to 1, if `scale` or `min_rate` is not a number above 0, if `smoothing` is
    /// outside (0, 1], or if the window is zero.
    pub fn build(self, now: Instant) -> Result<CubicRate, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("cubic_rate", setting, problem));
        let is_above_zero = |value: f64| value > 0.0 && value.is_finite();
        if !(0.0..=1.0).contains(&self.decrease_factor) {
            return error("decrease_factor", "must be in 0 to 1");
        }
        if !is_above_zero(self.scale) {
            return error("scale", "must be a number above 0");
        }
        if !(self.smoothing > 0.0 && self.smoothing <= 1.0) {
            return error("smoothing", "must be above 0 and at most 1");
        }
        if self.window.is_zero() {
            return error("window", "must be above zero");
        }
        if !is_above_zero(self.min_rate) {
            return error("min_rate", "must be a number above 0");
        }
        Ok(CubicRate {
            curve: CubicCurve::new(now, self.decrease_factor, self.scale, 0.0),
            meter: RateMeter::new(now, self.window, self.smoothing),
            bucket: RateBucket::new(now, 0.0, self.min_rate),
            limiting: false,
        })
    }
}
