//! Rates without rounding errors.

use std::time::Duration;

use crate::instant::{Instant, nanos};

/// Converts between time and units, of which a whole number makes a token.
///
/// At a rate of `tokens` per `period` the limit earns `time * tokens / period` tokens, which is rarely a whole
/// number. The number of nanoseconds per token is rarely whole either. So each rate has its own unit: a token is
/// `cost` units, a whole number, and the units earned by time `t` are `t * tokens * cost / period`, one
/// multiplication by a factor with 64 significant bits and a shift. Nothing is rounded twice, so the error stays
/// below one unit however long the limit runs. A unit is at most half a nanosecond, unless the burst is so large that
/// it would not fit in a word. If the period is a whole number of nanoseconds per token, a unit is one nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExactRate {
    forth: Factor,
    back: Factor,
    /// Units per token.
    cost: u64,
}

/// Units earned since the clock's origin stay below this. At two units a nanosecond that is 146 years.
const END: u64 = 1 << 63;

/// A limit plus its debt stays below this many units.
pub(crate) const REACH: u64 = 1 << 62;

impl ExactRate {
    /// Chooses the units for `tokens` per `period`, so that `reach` tokens fit in a word. `tokens` and `period` are
    /// above zero, and the rate is at most one token per nanosecond.
    pub(crate) fn new(tokens: u64, period: Duration, reach: u64) -> Self {
        Self::of(tokens.max(1).into(), nanos(period).max(1).into(), reach)
    }

    /// Like [`new`](Self::new), for a stripe that holds `share` of the `burst` tokens of a bucket. It earns that
    /// share of the rate, so that all stripes are full at the same time: a stripe that is full earlier would lose
    /// tokens.
    pub(crate) fn shared(tokens: u64, period: Duration, share: u64, burst: u64) -> Self {
        let tokens = u128::from(tokens.max(1)) * u128::from(share);
        let period = u128::from(nanos(period).max(1)) * u128::from(burst);
        Self::of(tokens, period, share)
    }

    fn of(tokens: u128, period: u128, reach: u64) -> Self {
        let common = gcd(tokens, period);
        let largest = u128::from((REACH / reach.max(1)).max(1));
        let cost = match tokens / common {
            // With 1 or 2 tokens, a unit is one nanosecond, or half of one.
            1 | 2 if period / common <= largest => period / common,
            _ => (2 * period / tokens).clamp(1, largest),
        };
        Self {
            forth: Factor::new(tokens * cost, period),
            back: Factor::new(period, tokens * cost),
            cost: u64::try_from(cost).unwrap_or(u64::MAX),
        }
    }

    /// Returns the units earned from the clock's origin to `at`.
    #[inline(always)]
    pub(crate) fn units(&self, at: Instant) -> u64 {
        let nanos = at.as_nanos();
        match self.forth.shift {
            EVEN => nanos.min(END),
            _ => self.forth.of(nanos).min(END),
        }
    }

    /// Returns the first instant by which `units` have been earned.
    #[inline]
    pub(crate) fn instant(&self, units: u64) -> Instant {
        match self.back.shift {
            _ if units > END => Instant::FAR_FUTURE,
            EVEN => Instant::from_nanos(units),
            _ => self.uneven(units),
        }
    }

    #[inline(never)]
    fn uneven(&self, units: u64) -> Instant {
        if self.forth.of(u64::MAX) < units {
            return Instant::FAR_FUTURE;
        }
        // Both factors are equally exact, so the result is off by a few steps at most.
        let mut nanos = self.back.of(units);
        while nanos > 0 && self.forth.of(nanos - 1) >= units {
            nanos -= 1;
        }
        while self.forth.of(nanos) < units {
            nanos += 1;
        }
        Instant::from_nanos(nanos)
    }

    /// Returns the time in which `units` are earned.
    pub(crate) fn time(&self, units: u64) -> Duration {
        Duration::from_nanos(self.instant(units).as_nanos())
    }

    /// Returns the units per token.
    #[inline]
    pub(crate) const fn cost(&self) -> u64 {
        self.cost
    }

    /// Converts units of this rate into units of another one, as many tokens. Rounds down, and saturates.
    pub(crate) fn convert(&self, units: u64, to: &Self) -> u64 {
        let converted = u128::from(units) * u128::from(to.cost()) / u128::from(self.cost());
        u64::try_from(converted.min(u128::from(REACH))).unwrap_or(REACH)
    }

    /// Returns the units of `tokens`. Saturates above every capacity, so that an excessive cost stays excessive.
    #[inline(always)]
    pub(crate) fn price(&self, tokens: u64) -> u64 {
        self.cost.saturating_mul(tokens)
    }
}

/// A fraction `mantissa / 2^shift`, with the highest bit of the mantissa set. Exact to one part in 2^63,
/// and never too small. A factor of one has the shift [`EVEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Factor {
    mantissa: u64,
    shift: u32,
}

/// Marks a factor of one, so that the most frequent rates need no multiplication.
const EVEN: u32 = u32::MAX;

impl Factor {
    /// Returns the factor `dividend / divisor`, which must be between 2^-64 and 2^64.
    fn new(dividend: u128, divisor: u128) -> Self {
        const TOP: u128 = 1 << 63;
        if dividend == divisor {
            return Self {
                mantissa: 1,
                shift: EVEN,
            };
        }
        let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
        let mut shift = 0;
        while quotient < TOP && shift < 127 {
            quotient *= 2;
            rest *= 2;
            if rest >= divisor {
                rest -= divisor;
                quotient += 1;
            }
            shift += 1;
        }
        if rest > 0 {
            quotient += 1;
        }
        if quotient >= 2 * TOP && shift > 0 {
            quotient /= 2;
            shift -= 1;
        }
        Self {
            mantissa: u64::try_from(quotient).unwrap_or(u64::MAX),
            shift,
        }
    }

    #[inline]
    fn of(self, value: u64) -> u64 {
        if self.shift == EVEN {
            return value;
        }
        let product = (u128::from(value) * u128::from(self.mantissa)) >> (self.shift & 127);
        if product > u128::from(u64::MAX) {
            u64::MAX
        } else {
            product as u64
        }
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn an_even_rate_counts_in_nanoseconds() {
        let rate = ExactRate::new(1000, SECOND, 1000);
        assert_eq!(rate.cost(), 1_000_000);
        for nanos in [0, 1, 999_999_937, u64::MAX / 3] {
            assert_eq!(rate.units(Instant::from_nanos(nanos)), nanos);
            assert_eq!(rate.instant(nanos), Instant::from_nanos(nanos));
        }
    }

    #[test]
    fn rates_are_exact_after_thirty_years() {
        for tokens in [
            1,
            3,
            7,
            700_000,
            999_999_937,
            600_000_000,
            123_456_789,
            1_000_000_000,
        ] {
            let rate = ExactRate::new(tokens, SECOND, tokens);
            let earned = rate.units(Instant::ORIGIN + 30 * YEAR) as f64 / rate.cost() as f64;
            let due = tokens as f64 * (30 * YEAR).as_secs_f64();
            assert!((earned / due - 1.0).abs() < 1e-12, "{tokens}: {earned}");
        }
    }

    #[test]
    fn the_end_of_time_is_not_passed() {
        for (tokens, period) in [(1, SECOND), (1_000_000_000, SECOND), (1, Duration::MAX)] {
            for reach in [1, 1000, 1 << 48] {
                let rate = ExactRate::new(tokens, period, reach);
                assert!(rate.units(Instant::FAR_FUTURE) <= END);
                assert_eq!(rate.instant(u64::MAX), Instant::FAR_FUTURE);
                assert!(rate.price(reach) <= REACH);
                assert!(rate.price(u64::MAX) > REACH);
            }
        }
    }

    proptest! {
        #[test]
        fn units_follow_the_exact_fraction(
            tokens in 1_u64..2_000_000_000,
            period in 1_u64..100_000_000_000,
            at in 0_u64..1 << 60,
        ) {
            let period = period.max(tokens);
            let rate = ExactRate::new(tokens, Duration::from_nanos(period), 1);
            // The exact number is `at * tokens * cost / period`. Its numerator fits in 128 bits.
            let per_period = u128::from(tokens) * u128::from(rate.cost());
            let exact = u128::from(at) * per_period / u128::from(period);
            let units = u128::from(rate.units(Instant::from_nanos(at)));
            prop_assert!(units >= exact && units <= exact + 1, "{units} {exact}");
        }

        #[test]
        fn an_instant_is_the_first_that_has_earned_enough(
            tokens in 1_u64..2_000_000_000,
            period in 1_u64..100_000_000_000,
            units in 1_u64..1 << 60,
        ) {
            let rate = ExactRate::new(tokens, Duration::from_nanos(period.max(tokens)), 1);
            let at = rate.instant(units);
            prop_assert!(rate.units(at) >= units);
            prop_assert!(rate.units(Instant::from_nanos(at.as_nanos() - 1)) < units);
        }
    }
}
