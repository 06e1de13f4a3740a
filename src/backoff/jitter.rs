//! Jitter: spreads delays, so that callers that failed together do not retry together.

use std::time::Duration;

/// The randomness of a delay. The cap of the [`Backoff`](super::Backoff) applies after it.
///
/// Each call draws its own random numbers, so two calls that fail together wait for different times.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// No jitter. Callers that fail together retry together.
    None,
    /// Anywhere from zero to the delay. The default: it spreads best ("full jitter" in "Exponential
    /// Backoff and Jitter", AWS Architecture Blog, 2015).
    Full,
    /// Anywhere from half the delay to the delay ("equal jitter", same source).
    Equal,
    /// Anywhere within this fraction, 0 to 1, below and above the delay. gRPC uses 0.2,
    /// resilience4j 0.5.
    PlusMinus(f64),
    /// A random delay from the first one to three times the previous one ("decorrelated jitter", same source). Meant
    /// for exponential backoffs, whose factor it ignores, because each delay grows from the previous one.
    Decorrelated,
    /// Grows smoothly, without the clusters that `Decorrelated` has at its edges: the increments of
    /// `2^t · tanh(√4t)` at random `t`, which keep the median of the plain backoff ("decorrelated jitter v2", Polly).
    /// Meant for exponential backoffs.
    DecorrelatedV2,
}

impl Jitter {
    pub(super) fn check(self, exponential: bool) -> Result<(), &'static str> {
        match self {
            Self::PlusMinus(fraction) if !(0.0..=1.0).contains(&fraction) => {
                Err("needs a jitter fraction from 0 to 1")
            }
            Self::Decorrelated | Self::DecorrelatedV2 if !exponential => {
                Err("needs to be exponential for a decorrelated jitter")
            }
            _ => Ok(()),
        }
    }
}

/// Returns nanoseconds within `fraction` around `delay`. `unit` is in `[0, 1)`.
pub(super) fn around(delay: Duration, fraction: f64, unit: f64) -> f64 {
    delay.as_nanos() as f64 * (1.0 - fraction + 2.0 * fraction * unit)
}

/// Returns nanoseconds from `initial` to three times the `last` delay, which is zero at first.
pub(super) fn decorrelated(initial: f64, last: f64, unit: f64) -> f64 {
    let top = last.max(initial) * 3.0;
    initial + (top - initial) * unit
}

/// Returns the delay in nanoseconds before the retry after `steps` others, and the value to remember.
pub(super) fn decorrelated_v2(
    initial: f64,
    factor: f64,
    steps: f64,
    memory: f64,
    unit: f64,
) -> (f64, f64) {
    // Scales the formula's increments so that the median of the first delay is `initial`.
    const SCALE: f64 = 1.0 / 1.4;

    let t = steps + unit;
    let level = factor.powf(t) * (4.0 * t).sqrt().tanh();
    if !level.is_finite() {
        // Beyond every cap. Stopping here avoids the difference of two infinities.
        return (f64::INFINITY, memory);
    }
    ((level - memory).max(0.0) * SCALE * initial, level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decorrelated_v2_follows_its_formula() {
        // The increments of 2^t · tanh(√4t) at t = 0.5, 1.5 and 2.5, computed by hand.
        let level = |t: f64| 2_f64.powf(t) * (2.0 * t.sqrt()).tanh();
        let mut memory = 0.0;
        let mut last = 0.0;
        for steps in 0..3 {
            let t = f64::from(steps) + 0.5;
            let (delay, next) = decorrelated_v2(1000.0, 2.0, f64::from(steps), memory, 0.5);
            assert!((delay - (level(t) - last) * 1000.0 / 1.4).abs() < 1e-6);
            (memory, last) = (next, level(t));
        }
    }

    #[test]
    fn decorrelated_begins_between_one_and_three_times_the_first_delay() {
        assert_eq!(decorrelated(10.0, 0.0, 0.0), 10.0);
        assert_eq!(decorrelated(10.0, 0.0, 0.5), 20.0);
        assert_eq!(decorrelated(10.0, 20.0, 1.0), 60.0);
    }
}
