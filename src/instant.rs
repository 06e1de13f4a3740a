//! Points on a clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on a clock: nanoseconds since that clock's own origin, in one word.
///
/// Points of different clocks are not comparable. All arithmetic saturates: an instant later than
/// [`Instant::FAR_FUTURE`], 584 years after the origin, is `FAR_FUTURE`, which means "never".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(0);

    /// Later than every other instant: a deadline that never comes.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// Returns the instant `nanos` nanoseconds after the clock's origin.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the clock's origin.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    #[inline]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Adds this many nanoseconds, and saturates.
    #[inline]
    pub(crate) const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR_FUTURE`].
    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    #[inline]
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Returns the time since `earlier`; zero if `earlier` is later.
    #[inline]
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Returns the nanoseconds of `duration`; `u64::MAX`, about 584 years, for longer ones.
#[inline]
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// Displays a duration with three decimal places, rounded up, so that a caller that waits for it is not too early.
pub(crate) struct Rounded(pub(crate) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Duration::MAX {
            return f.write_str("unlimited");
        }
        let nanos = self.0.as_nanos();
        let digit = match nanos {
            0..1_000_000 => 1,
            1_000_000..1_000_000_000 => 1_000,
            _ => 1_000_000,
        };
        match u64::try_from(nanos.next_multiple_of(digit)) {
            Ok(nanos) => fmt::Debug::fmt(&Duration::from_nanos(nanos), f),
            Err(_) => fmt::Debug::fmt(&self.0, f),
        }
    }
}

impl fmt::Debug for Instant {
    /// Prints the time since the origin, as a duration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FAR_FUTURE => f.write_str("FAR_FUTURE"),
            Self(nanos) => fmt::Debug::fmt(&Duration::from_nanos(nanos), f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate() {
        assert_eq!(Instant::ORIGIN + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(
            Instant::FAR_FUTURE + Duration::from_nanos(1),
            Instant::FAR_FUTURE
        );
        let (a, b) = (Instant::from_nanos(1), Instant::from_nanos(3));
        assert_eq!(b.saturating_duration_since(a), Duration::from_nanos(2));
        assert_eq!(a.saturating_duration_since(b), Duration::ZERO);
        assert_eq!((b - a, a - b), (Duration::from_nanos(2), Duration::ZERO));
    }

    #[test]
    fn durations_are_rounded_up_to_three_digits() {
        let text = |nanos| Rounded(Duration::from_nanos(nanos)).to_string();
        assert_eq!(text(999), "999ns");
        assert_eq!(text(1_000_001), "1.001ms");
        assert_eq!(text(2_500_000_001), "2.501s");
        assert_eq!(text(u64::MAX), "18446744073.709551615s");
        assert_eq!(Rounded(Duration::MAX).to_string(), "unlimited");
    }

    #[test]
    fn an_instant_prints_the_time_since_the_origin() {
        assert_eq!(format!("{:?}", Instant::from_nanos(1_500_000)), "1.5ms");
        assert_eq!(format!("{:?}", Instant::FAR_FUTURE), "FAR_FUTURE");
    }
}
