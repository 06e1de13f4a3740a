//! Backoffs: the delays of retries and of open circuits.
//!
//! A [`Backoff`] is a plain value: a shape (fixed, linear, exponential, Fibonacci or your own), a
//! cap and a [`Jitter`].
//!
//! ```text
//!   delay
//!     │                           ┌──────── cap, also after jitter
//!     │                     ▒▒▒▒▒▒▒
//!     │               ▒▒▒▒▒▒
//!     │         ▒▒▒▒▒▒            ▒ full jitter: anywhere from zero to the delay, so that
//!     │  ▒▒▒▒▒▒▒                    callers that failed together do not retry together
//!     └────────────────────────── attempt
//! ```
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Backoff, Jitter};
//!
//! let ms = Duration::from_millis;
//! let backoff = Backoff::exponential(ms(100)).max(ms(500)).jitter(Jitter::None);
//! let delays: Vec<_> = backoff.delays(7).take(4).collect();
//! assert_eq!(delays, [ms(100), ms(200), ms(400), ms(500)]);
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::blocking;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::rng::SharedRng;

mod jitter;

pub use self::jitter::Jitter;

/// A rule for delays: a shape, a cap and a jitter. See the [module page](self).
///
/// # Defaults
///
/// | setting | default |
/// |---|---|
/// | [`factor`](Self::factor) of an exponential one | 2 |
/// | [`max`](Self::max) | 20 s, or the first delay if that is longer; none for `fixed` and `custom` |
/// | [`jitter`](Self::jitter) | [`Jitter::Full`] |
///
/// Settings are checked by the builder that takes the backoff.
#[derive(Clone)]
pub struct Backoff {
    shape: Shape,
    max: Duration,
    /// `max` is the preset of a growing shape.
    is_max_preset: bool,
    jitter: Jitter,
}

#[derive(Clone)]
enum Shape {
    None,
    Fixed(Duration),
    Linear { initial: Duration, step: Duration },
    Exponential { initial: Duration, factor: f64 },
    Fibonacci { initial: Duration },
    Custom(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl Backoff {
    /// No delay at all.
    pub const NONE: Self = Self::of(Shape::None, Duration::MAX);

    const fn of(shape: Shape, max: Duration) -> Self {
        Self {
            shape,
            max,
            is_max_preset: false,
            jitter: Jitter::Full,
        }
    }

    /// Returns a backoff whose shape grows, and so needs a cap.
    const fn growing(shape: Shape) -> Self {
        let mut backoff = Self::of(shape, Duration::MAX);
        backoff.is_max_preset = true;
        backoff.or_max(Duration::from_secs(20))
    }

    /// Replaces the preset cap: with this one, or with the first delay if that is longer.
    pub(crate) const fn or_max(mut self, max: Duration) -> Self {
        if self.is_max_preset {
            let initial = match self.shape {
                Shape::Linear { initial, .. }
                | Shape::Exponential { initial, .. }
                | Shape::Fibonacci { initial } => initial,
                _ => Duration::ZERO,
            };
            let is_longer = initial.as_nanos() > max.as_nanos();
            self.max = if is_longer { initial } else { max };
        }
        self
    }

    /// Returns a backoff with the same delay each time. Zero is an error when built: use [`Backoff::NONE`].
    pub const fn fixed(delay: Duration) -> Self {
        Self::of(Shape::Fixed(delay), Duration::MAX)
    }

    /// Returns a backoff that starts at `initial` and adds `step` each time.
    pub const fn linear(initial: Duration, step: Duration) -> Self {
        Self::growing(Shape::Linear { initial, step })
    }

    /// Returns a backoff that starts at `initial` and doubles, or grows by [`factor`](Self::factor).
    pub const fn exponential(initial: Duration) -> Self {
        let factor = 2.0;
        Self::growing(Shape::Exponential { initial, factor })
    }

    /// Returns a backoff of `initial` times 1, 1, 2, 3, 5, 8, and so on: gentler than doubling.
    pub const fn fibonacci(initial: Duration) -> Self {
        Self::growing(Shape::Fibonacci { initial })
    }

    /// Returns a backoff that calls `delay(n)` before retry number `n`, from 1.
    pub fn custom(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        let delay = move |n| blocking::outside(|| delay(n));
        Self::of(Shape::Custom(Arc::new(delay)), Duration::MAX)
    }

    /// Sets the factor of an exponential backoff, at least 1. Default 2. Other shapes have no factor, and
    /// setting one is an error when built.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.shape = match self.shape {
            Shape::Exponential { initial, .. } => Shape::Exponential { initial, factor },
            // `check` reports a factor that the shape does not use.
            _ => Shape::Exponential {
                initial: Duration::ZERO,
                factor: f64::NAN,
            },
        };
        self
    }

    /// Sets the longest delay, jitter included, also of the first one. Default 20 s for delays that grow, or the first
    /// delay if that is longer.
    #[must_use]
    pub const fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self.is_max_preset = false;
        self
    }

    /// Sets the jitter.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Returns the delay before retry number `n`, from 1, without jitter.
    ///
    /// Delays that overflow become the cap.
    pub fn delay(&self, n: u32) -> Duration {
        let steps = n.saturating_sub(1);
        let raw = match &self.shape {
            Shape::None => Duration::ZERO,
            Shape::Fixed(delay) => *delay,
            Shape::Linear { initial, step } => initial.saturating_add(step.saturating_mul(steps)),
            Shape::Exponential { initial, factor } => {
                let power = factor.powi(i32::try_from(steps).unwrap_or(i32::MAX));
                self.cap(nanos(*initial) as f64 * power)
            }
            Shape::Fibonacci { initial } => initial.saturating_mul(fibonacci(n)),
            Shape::Custom(delay) => delay(n),
        };
        raw.min(self.max)
    }

    /// Returns the endless sequence of delays of one call.
    ///
    /// Equal seeds give equal delays.
    pub fn delays(&self, seed: u64) -> impl Iterator<Item = Duration> {
        let rng = SharedRng::new(Some(seed));
        let mut progress = Progress::new();
        std::iter::repeat_with(move || progress.next(self, || rng.unit()))
    }

    /// Converts nanoseconds to a delay, no longer than the cap.
    fn cap(&self, nanos: f64) -> Duration {
        // `as` saturates, and converts NaN, the product of infinity and zero, to zero.
        if nanos >= self.max.as_nanos() as f64 || nanos >= u64::MAX as f64 {
            self.max
        } else {
            Duration::from_nanos(nanos as u64)
        }
    }

    /// Checks the settings for the builder of `policy`; an error names its setter `setting`.
    pub(crate) fn check(
        &self,
        policy: &'static str,
        setting: &'static str,
    ) -> Result<(), ConfigError> {
        let fail = |problem| Err(ConfigError::new(policy, setting, problem));
        let exponential = matches!(self.shape, Shape::Exponential { .. });
        match &self.shape {
            Shape::Exponential { factor, .. } if factor.is_nan() => {
                return fail("has a factor that is not a number, or that its shape does not use");
            }
            Shape::Exponential { factor, .. } if *factor < 1.0 || factor.is_infinite() => {
                return fail("needs a factor of at least 1, and finite");
            }
            Shape::Fixed(initial)
            | Shape::Linear { initial, .. }
            | Shape::Exponential { initial, .. }
            | Shape::Fibonacci { initial }
                if initial.is_zero() =>
            {
                return fail("needs a delay above zero, or Backoff::NONE");
            }
            Shape::None => return Ok(()),
            _ => {}
        }
        if self.max.is_zero() {
            return fail("needs a max above zero, or Backoff::NONE");
        }
        self.jitter.check(exponential).or_else(fail)
    }
}

/// Returns the `n`th Fibonacci number, from 1. Saturates at `u32::MAX`.
fn fibonacci(n: u32) -> u32 {
    let (mut a, mut b) = (0_u32, 1_u32);
    // The 47th is the last that fits in 32 bits.
    for _ in 0..n.min(48) {
        (a, b) = (b, a.saturating_add(b));
    }
    a
}

/// Compares two backoffs. Custom ones are equal if one is a clone of the other.
impl PartialEq for Backoff {
    fn eq(&self, other: &Self) -> bool {
        (&self.shape, self.max, self.jitter) == (&other.shape, other.max, other.jitter)
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Fixed(a), Self::Fixed(b)) => a == b,
            (
                Self::Linear { initial, step },
                Self::Linear {
                    initial: other,
                    step: other_step,
                },
            ) => (initial, step) == (other, other_step),
            (
                Self::Exponential { initial, factor },
                Self::Exponential {
                    initial: other,
                    factor: other_factor,
                },
            ) => (initial, factor) == (other, other_factor),
            (Self::Fibonacci { initial }, Self::Fibonacci { initial: other }) => initial == other,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("shape", &self.shape)
            .field("max", &DebugLimit(&self.max))
            .field("jitter", &self.jitter)
            .finish()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fixed(delay) => write!(f, "Fixed({:?})", DebugLimit(delay)),
            Self::Linear { initial, step } => {
                write!(
                    f,
                    "Linear({:?} + {:?})",
                    DebugLimit(initial),
                    DebugLimit(step)
                )
            }
            Self::Exponential { initial, factor } => {
                write!(f, "Exponential({:?} × {factor})", DebugLimit(initial))
            }
            Self::Fibonacci { initial } => write!(f, "Fibonacci({:?})", DebugLimit(initial)),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// The position of one call, or of one run of open circuits, in a backoff.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Progress {
    /// Delays given so far.
    given: u32,
    /// The last delay, for decorrelated jitter.
    memory: f64,
}

impl Progress {
    pub(crate) const fn new() -> Self {
        Self {
            given: 0,
            memory: 0.0,
        }
    }

    /// Returns the progress after `given` delays.
    pub(crate) fn after(backoff: &Backoff, given: u32, mut unit: impl FnMut() -> f64) -> Self {
        let mut progress = Self::new();
        // A jitter that depends on the previous delay has converged after 64 delays.
        for _ in 0..given.min(64) {
            progress.next(backoff, &mut unit);
        }
        progress.given = given;
        progress
    }

    /// Returns only the random part of the next delay, zero without jitter. It is added to a wait that a server asked
    /// for, so that the server's clients do not all return at once.
    pub(crate) fn next_spread(
        &mut self,
        backoff: &Backoff,
        unit: impl FnOnce() -> f64,
    ) -> Duration {
        self.given = self.given.saturating_add(1);
        let share = match backoff.jitter {
            Jitter::None => return Duration::ZERO,
            Jitter::Equal => 0.5,
            Jitter::PlusMinus(fraction) => fraction,
            Jitter::Full | Jitter::Decorrelated | Jitter::DecorrelatedV2 => 1.0,
        };
        let delay = backoff.delay(self.given).as_nanos() as f64;
        backoff.cap(delay * share * unit())
    }

    /// Returns the next delay. Calls `unit` for a number in `[0, 1)`, only if the jitter needs one.
    pub(crate) fn next(&mut self, backoff: &Backoff, unit: impl FnOnce() -> f64) -> Duration {
        self.given = self.given.saturating_add(1);
        if matches!(backoff.shape, Shape::None) {
            return Duration::ZERO;
        }
        let delay = backoff.delay(self.given);
        let (initial, factor) = match backoff.shape {
            Shape::Exponential { initial, factor } => (nanos(initial) as f64, factor),
            _ => (0.0, 1.0),
        };
        match backoff.jitter {
            Jitter::None => delay,
            Jitter::Full => backoff.cap(delay.as_nanos() as f64 * unit()),
            Jitter::Equal => backoff.cap(delay.as_nanos() as f64 * (0.5 + 0.5 * unit())),
            Jitter::PlusMinus(fraction) => backoff.cap(jitter::around(delay, fraction, unit())),
            Jitter::Decorrelated => {
                self.memory = jitter::decorrelated(initial, self.memory, unit());
                let delay = backoff.cap(self.memory);
                self.memory = nanos(delay) as f64;
                delay
            }
            Jitter::DecorrelatedV2 => {
                let steps = f64::from(self.given - 1);
                let (delay, memory) =
                    jitter::decorrelated_v2(initial, factor, steps, self.memory, unit());
                self.memory = memory;
                backoff.cap(delay)
            }
        }
    }
}

#[cfg(test)]
mod tests;
