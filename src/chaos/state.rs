//! Rates, the cap, and the draw of faults.

use std::time::Duration;

use crate::error::ConfigError;
use crate::sync::{AtomicU64, Ordering};

/// A kind of fault.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The call is delayed.
    Latency,
    /// A user's function runs before the call.
    Behavior,
    /// The call fails without running.
    Error,
    /// The call gets another result without running.
    Result,
}

impl Fault {
    pub(super) const ALL: [Self; 4] = [Self::Latency, Self::Behavior, Self::Error, Self::Result];

    /// Returns the fault as an identifier for logs and metrics, such as `latency`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Behavior => "behavior",
            Self::Error => "error",
            Self::Result => "result",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The default name.
pub(super) const NAME: &str = "chaos";

/// Checks rates, which are shares of the calls.
pub(super) fn check_rates(rates: [f64; 4]) -> Result<(), ConfigError> {
    for (fault, rate) in Fault::ALL.into_iter().zip(rates) {
        if !(0.0..=1.0).contains(&rate) {
            return Err(ConfigError::new(
                NAME,
                fault.as_str(),
                "must have a rate from 0 to 1",
            ));
        }
    }
    // A call gets at most one fault. The margin allows for rounding in sums of tenths.
    if rates.iter().sum::<f64>() > 1.0 + 1e-9 {
        return Err(ConfigError::new(NAME, "rates", "must be at most 1 in sum"));
    }
    Ok(())
}

/// Checks the cap.
pub(super) fn check_share(share: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&share) {
        return Ok(());
    }
    Err(ConfigError::new(NAME, "max_share", "must be from 0 to 1"))
}

/// Checks a range of delays.
pub(super) fn check_latency(latency: Latency) -> Result<(), ConfigError> {
    if latency.min <= latency.max {
        return Ok(());
    }
    Err(ConfigError::new(
        NAME,
        "latency",
        "must begin before it ends",
    ))
}

/// The delay of calls: the same for all, or a random one in a range.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

crate::debug::debug_settings!(Latency { ; min, max });

impl Latency {
    /// Returns the delay of a call; `unit` is in `[0, 1)`.
    pub(super) fn draw(self, unit: f64) -> Duration {
        // Saturating: the product is rounded, and the sum may be beyond the longest duration.
        let range = self.max.saturating_sub(self.min);
        self.min.saturating_add(range.mul_f64(unit))
    }
}

impl From<Duration> for Latency {
    fn from(delay: Duration) -> Self {
        Self {
            min: delay,
            max: delay,
        }
    }
}

impl From<std::ops::Range<Duration>> for Latency {
    fn from(range: std::ops::Range<Duration>) -> Self {
        Self {
            min: range.start,
            max: range.end,
        }
    }
}

impl From<std::ops::RangeInclusive<Duration>> for Latency {
    fn from(range: std::ops::RangeInclusive<Duration>) -> Self {
        Self {
            min: *range.start(),
            max: *range.end(),
        }
    }
}

/// Rates, the cap, and counters, all of which change while calls run.
#[derive(Debug)]
pub(super) struct State {
    is_on: AtomicU64,
    /// Shares of the calls, as the bits of an `f64`.
    rates: [AtomicU64; 4],
    /// Share of the calls, in units of [`ONE`].
    max_share: AtomicU64,
    /// Faults that may be injected, in units of [`ONE`].
    credit: AtomicU64,
    calls: AtomicU64,
    injected: [AtomicU64; 4],
    capped: AtomicU64,
}

/// One fault. Decimal, so that a tenth of the calls is exactly a tenth.
const ONE: u64 = 10_000_000_000;

/// The most faults that calls without one can save up.
const MAX_SAVED: u64 = 10;

/// Counts since the injector was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) injected: [u64; 4],
    pub(super) capped: u64,
}

impl State {
    pub(super) fn new(rates: [f64; 4], max_share: f64, is_on: bool) -> Self {
        Self {
            is_on: AtomicU64::new(is_on.into()),
            rates: rates.map(|rate| AtomicU64::new(rate.to_bits())),
            max_share: AtomicU64::new(units(max_share)),
            credit: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            injected: std::array::from_fn(|_| AtomicU64::new(0)),
            capped: AtomicU64::new(0),
        }
    }

    // Relaxed throughout: the words are independent.

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed) != 0
    }

    pub(super) fn switch(&self, on: bool) {
        self.is_on.store(on.into(), Ordering::Relaxed);
    }

    pub(super) fn rate(&self, fault: Fault) -> f64 {
        f64::from_bits(self.rates[fault as usize].load(Ordering::Relaxed))
    }

    pub(super) fn set_rate(&self, fault: Fault, rate: f64) {
        self.rates[fault as usize].store(rate.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn max_share(&self) -> f64 {
        self.max_share.load(Ordering::Relaxed) as f64 / ONE as f64
    }

    pub(super) fn set_max_share(&self, share: f64) {
        self.max_share.store(units(share), Ordering::Relaxed);
    }

    /// Counts a call, and decides which fault it gets. `unit` is in `[0, 1)`.
    pub(super) fn decide(&self, unit: f64) -> Option<Fault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut left = unit;
        let drawn = Fault::ALL.into_iter().find(|fault| {
            let rate = self.rate(*fault);
            let is_drawn = left < rate;
            left -= rate;
            is_drawn
        });
        let is_paid = self.pay(drawn.is_some());
        let fault = drawn?;
        if !is_paid {
            self.capped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.injected[fault as usize].fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }

    /// Adds the share of a call to the credit, and pays for a fault if one is wanted and the credit suffices: a token
    /// bucket that fills with calls.
    fn pay(&self, is_wanted: bool) -> bool {
        let share = self.max_share.load(Ordering::Relaxed);
        let mut credit = self.credit.load(Ordering::Relaxed);
        loop {
            let full = (credit + share).min(MAX_SAVED * ONE);
            let is_paid = is_wanted && share > 0 && full >= ONE;
            let new = if is_paid { full - ONE } else { full };
            let stored = self.credit.compare_exchange_weak(
                credit,
                new,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match stored {
                Ok(_) => return is_paid,
                Err(current) => credit = current,
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        Counts {
            calls: read(&self.calls),
            injected: std::array::from_fn(|fault| read(&self.injected[fault])),
            capped: read(&self.capped),
        }
    }
}

/// Converts a share to units, rounded down so that the cap is never exceeded, except where the share is a unit but for
/// the rounding of an `f64`: 0.29 of [`ONE`] is 2 899 999 999.999 999 5.
fn units(share: f64) -> u64 {
    (share * ONE as f64 + 1e-6) as u64
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Holds after any number of calls, and within any run of them once faults were saved up.
        #[test]
        fn the_cap_holds_at_every_call(
            share in 0.0..=1.0_f64,
            rate in 0.0..=1.0_f64,
            draws in prop::collection::vec(0.0..1.0_f64, 1..400),
        ) {
            let state = State::new([0.0, 0.0, rate, 0.0], share, true);
            let mut injected = vec![0_u32];
            for (calls, draw) in draws.iter().enumerate() {
                let is_injected = state.decide(*draw).is_some();
                prop_assert!(!is_injected || *draw < rate);
                injected.push(injected[calls] + u32::from(is_injected));
                let allowed = share * (calls + 1) as f64;
                prop_assert!(f64::from(injected[calls + 1]) <= allowed + 1e-6);
                let from = calls.saturating_sub(50);
                let run = f64::from(injected[calls + 1] - injected[from]);
                prop_assert!(run <= share * (calls + 1 - from) as f64 + MAX_SAVED as f64);
            }
        }
    }

    #[test]
    fn a_share_in_percent_is_that_many_of_a_hundred_calls() {
        for percent in 0..=100 {
            let share = f64::from(percent) / 100.0;
            let state = State::new([0.0, 0.0, 1.0, 0.0], share, true);
            assert_eq!(state.max_share(), share);
            let injected = (0..100).filter(|_| state.pay(true)).count();
            assert_eq!(injected, percent as usize);
        }
    }

    #[test]
    fn each_fault_gets_its_share_of_the_draws() {
        let state = State::new([0.1, 0.2, 0.3, 0.4], 1.0, true);
        for draw in 0..1000 {
            state.decide((f64::from(draw) + 0.5) / 1000.0);
        }
        assert_eq!(state.counts().injected, [100, 200, 300, 400]);
    }

    #[test]
    fn delays_are_in_their_range() {
        let second = Duration::from_secs(1);
        let latency = Latency::from(second..=3 * second);
        assert_eq!(latency.draw(0.0), second);
        assert_eq!(latency.draw(0.5), 2 * second);
        assert_eq!(Latency::from(second).draw(0.9), second);
        assert_eq!(Latency::from(second..Duration::ZERO).draw(0.9), second);
        let longest = Latency::from(second..=Duration::MAX);
        assert!(longest.draw(1.0_f64.next_down()) > Duration::MAX / 2);
    }
}

#[cfg(all(test, backstop_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn loom_two_calls_do_not_spend_one_credit_twice() {
        loom::model(|| {
            let state = Arc::new(State::new([0.0, 0.0, 1.0, 0.0], 0.5, true));
            let other = {
                let state = state.clone();
                thread::spawn(move || state.decide(0.0).is_some())
            };
            let here = state.decide(0.0).is_some();
            let there = other.join().unwrap();
            assert!(here ^ there, "of two calls, one gets the fault");
        });
    }
}
