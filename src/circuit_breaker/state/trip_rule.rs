//! The rules that users configure: when a circuit opens, and when it closes again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::half_open::HalfOpenRules;
use crate::blocking;
use crate::event::Cause;
use crate::window::{Counts, TimeWindow};

/// A rule that opens the circuit. Passed to
/// [`CircuitBreakerBuilder::trip_on`](crate::circuit_breaker::CircuitBreakerBuilder::trip_on).
///
/// Thresholds are inclusive: `consecutive(5)` opens at the fifth failure, and a rate of 0.5 opens at 0.5.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use backstop::circuit_breaker::Trip;
///
/// let rules = [
///     Trip::consecutive(5),
///     Trip::failures(5).of_last(20),
///     Trip::failures(5).within(Duration::from_secs(10)),
///     Trip::failure_rate(0.5).of_last(100).min_calls(10),
///     Trip::slow_rate(0.8).within(Duration::from_secs(30)),
///     Trip::custom("half and five", |counts| {
///         counts.failures >= 5 && counts.failure_rate() >= 0.5
///     })
///     .of_last(100),
/// ];
/// ```
#[derive(Clone, PartialEq)]
#[must_use = "a rule does nothing until it is passed to a builder"]
pub struct Trip {
    pub(crate) kind: TripKind,
    calls: Option<u32>,
    time: Option<Duration>,
    slices: Option<u32>,
    min_calls: Option<u32>,
    pub(super) from_first_call: bool,
}

#[derive(Clone)]
pub(crate) enum TripKind {
    Consecutive(u32),
    Failures(u32),
    FailureRate(f64),
    SlowRate(f64),
    SuccessAverage(f64),
    Custom(Arc<CustomRule>),
}

/// A user's rule with its name. Boxed, so that rules of all kinds are small.
pub(crate) struct CustomRule {
    name: &'static str,
    pub(super) matches: Box<dyn Fn(&Counts) -> bool + Send + Sync>,
}

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Span {
    Calls(u32),
    Time(Duration),
}

impl Span {
    /// Returns whether both are numbers of calls, or both are times.
    pub(super) const fn is_comparable_to(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Calls(_), Self::Calls(_)) | (Self::Time(_), Self::Time(_))
        )
    }

    /// Returns whether this window is shorter than a comparable one.
    pub(super) fn is_shorter_than(self, other: Self) -> bool {
        match (self, other) {
            (Self::Calls(one), Self::Calls(other)) => one < other,
            (Self::Time(one), Self::Time(other)) => one < other,
            _ => false,
        }
    }
}

impl Trip {
    /// The largest window of calls.
    const MAX_CALLS: u32 = 1 << 20;
    const DEFAULT_SLICES: u32 = 10;
    const DEFAULT_MIN_CALLS: u32 = 20;

    const fn of(kind: TripKind) -> Self {
        Self {
            kind,
            calls: None,
            time: None,
            slices: None,
            min_calls: None,
            from_first_call: false,
        }
    }

    /// Opens after `n` consecutive failures, at least 1. The cheapest rule: it has no window.
    pub const fn consecutive(n: u32) -> Self {
        Self::of(TripKind::Consecutive(n))
    }

    /// Opens at `k` failures in the window, at least 1.
    pub const fn failures(k: u32) -> Self {
        Self::of(TripKind::Failures(k))
    }

    /// Opens at this share of failures in the window, above 0 and at most 1.
    pub const fn failure_rate(rate: f64) -> Self {
        Self::of(TripKind::FailureRate(rate))
    }

    /// Opens at this share of slow calls in the window, above 0 and at most 1. A call that is slow and fails
    /// counts as both.
    ///
    /// Needs [`slow_call`](crate::circuit_breaker::CircuitBreakerBuilder::slow_call).
    pub const fn slow_rate(rate: f64) -> Self {
        Self::of(TripKind::SlowRate(rate))
    }

    /// Opens when the exponentially weighted average of successes falls below `rate`, above 0 and at most 1.
    /// The weight of a call falls by the factor e over the window, as in Finagle's failure accrual.
    ///
    /// Does not open before a window of calls has been full, or a window of time has passed, once. Every call
    /// writes to shared memory unless the average is 1; prefer [`failure_rate`](Self::failure_rate). In a
    /// window of time, calls that end at the same instant have no weight.
    pub const fn success_average(rate: f64) -> Self {
        Self::of(TripKind::SuccessAverage(rate))
    }

    /// Opens when a function of the window's [`Counts`] returns `true`. The name appears in [`Cause::Custom`].
    ///
    /// The function is called after each call while the window contains failures or slow calls and at least
    /// [`min_calls`](Self::min_calls) calls. No lock is held. A panic is propagated to the caller; the call
    /// has been recorded by then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::circuit_breaker::Trip;
    /// use backstop::CircuitBreaker;
    ///
    /// // A failure weighs twice as much as a slow call.
    /// let weighted = Trip::custom("weighted", |counts| {
    ///     2 * counts.failures + counts.slow >= counts.calls
    /// });
    /// let breaker = CircuitBreaker::builder()
    ///     .trip_on(weighted.within(Duration::from_secs(30)))
    ///     .slow_call(Duration::from_secs(1))
    ///     .build()?;
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn custom(
        name: &'static str,
        rule: impl Fn(&Counts) -> bool + Send + Sync + 'static,
    ) -> Self {
        let matches = Box::new(move |counts: &Counts| blocking::outside(|| rule(counts)));
        Self::of(TripKind::Custom(Arc::new(CustomRule { name, matches })))
    }

    /// Sets the window to the last `n` calls, from 1 to 1 048 576.
    pub const fn of_last(mut self, n: u32) -> Self {
        self.calls = Some(n);
        self
    }

    /// Sets the window to the calls that ended within the last `window`. It is divided into at most 1024
    /// [`slices`](Self::slices) of at least 100 µs.
    pub const fn within(mut self, window: Duration) -> Self {
        self.time = Some(window);
        self
    }

    /// Sets the number of slices of a window of time. Default 10: the window then covers between nine tenths
    /// of its length and all of it.
    pub const fn slices(mut self, slices: u32) -> Self {
        self.slices = Some(slices);
        self
    }

    /// Lets the first slice of a window of time begin with the first call, also after the circuit has closed
    /// or the window has run empty. By default slices are aligned to the clock.
    pub const fn from_first_call(mut self) -> Self {
        self.from_first_call = true;
        self
    }

    /// Sets the least number of calls in the window before a rate opens the circuit. At least 1. Default 20,
    /// or the size of the window if that is smaller.
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    pub(super) fn span(&self) -> Option<Span> {
        let time = self.time.map(Span::Time);
        time.or(self.calls.map(Span::Calls))
    }

    pub(super) fn slice_count(&self) -> u32 {
        self.slices.unwrap_or(Self::DEFAULT_SLICES)
    }

    /// Returns the least number of calls in the window before the rule applies.
    pub(super) fn min_calls_or_default(&self) -> u32 {
        let default = match (&self.kind, self.calls) {
            (TripKind::Failures(_), _) => 1,
            (_, Some(calls)) => Self::DEFAULT_MIN_CALLS.min(calls),
            _ => Self::DEFAULT_MIN_CALLS,
        };
        self.min_calls.unwrap_or(default)
    }

    /// Validates the rule for a breaker with or without `slow_call`.
    pub(crate) fn check(&self, slow_calls: bool) -> Result<(), &'static str> {
        let is_rate = |rate: &f64| *rate > 0.0 && *rate <= 1.0;
        match &self.kind {
            TripKind::Consecutive(0) | TripKind::Failures(0) => {
                return Err("must be at least 1 failure");
            }
            TripKind::Consecutive(_)
                if self.span().is_some()
                    || (self.slices, self.min_calls, self.from_first_call)
                        != (None, None, false) =>
            {
                return Err("consecutive failures have no window");
            }
            TripKind::Consecutive(_) => return Ok(()),
            TripKind::Failures(_) if self.min_calls.is_some() => {
                return Err("min_calls does not apply to a number of failures");
            }
            TripKind::FailureRate(rate)
            | TripKind::SlowRate(rate)
            | TripKind::SuccessAverage(rate)
                if !is_rate(rate) =>
            {
                return Err("must be a rate above 0 and at most 1");
            }
            TripKind::SlowRate(_) if !slow_calls => return Err("a slow rate needs slow_call"),
            _ => {}
        }
        if self.min_calls == Some(0) {
            return Err("min_calls must be at least 1");
        }
        if self.calls.is_some() && self.time.is_some() {
            return Err("of_last excludes within");
        }
        match self.span() {
            None => return Err("needs of_last or within"),
            Some(Span::Calls(0)) => return Err("of_last must be at least 1 call"),
            Some(Span::Calls(calls)) => {
                if calls > Self::MAX_CALLS {
                    return Err("of_last must be at most 1048576 calls");
                }
                if self.slices.is_some() || self.from_first_call {
                    return Err("slices and from_first_call need within");
                }
                if self.min_calls.is_some_and(|min| min > calls) {
                    return Err("min_calls must be at most of_last");
                }
                if matches!(self.kind, TripKind::Failures(k) if k > calls) {
                    return Err("failures must be at most of_last");
                }
            }
            Some(Span::Time(window)) => {
                let slices = self.slice_count();
                if slices == 0 || slices > TimeWindow::MAX_SLICES {
                    return Err("slices must be from 1 to 1024");
                }
                if window / slices < TimeWindow::MIN_SLICE {
                    return Err("slices must be at least 100 µs long");
                }
            }
        }
        Ok(())
    }
}

/// Custom rules are equal if one is a clone of the other.
impl PartialEq for TripKind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Consecutive(a), Self::Consecutive(b))
            | (Self::Failures(a), Self::Failures(b)) => a == b,
            (Self::FailureRate(a), Self::FailureRate(b))
            | (Self::SlowRate(a), Self::SlowRate(b))
            | (Self::SuccessAverage(a), Self::SuccessAverage(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl TripKind {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Consecutive(_) => Cause::ConsecutiveFailures,
            Self::Failures(_) => Cause::Failures,
            Self::FailureRate(_) => Cause::FailureRate,
            Self::SlowRate(_) => Cause::SlowRate,
            Self::SuccessAverage(_) => Cause::SuccessAverage,
            Self::Custom(rule) => Cause::Custom(rule.name),
        }
    }
}

impl fmt::Debug for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rule = f.debug_struct("Trip");
        rule.field("kind", &self.kind);
        if let Some(calls) = self.calls {
            rule.field("of_last", &calls);
        }
        if let Some(window) = self.time {
            rule.field("within", &window)
                .field("slices", &self.slice_count())
                .field("from_first_call", &self.from_first_call);
        }
        if !matches!(self.kind, TripKind::Consecutive(_) | TripKind::Failures(_)) {
            rule.field("min_calls", &self.min_calls_or_default());
        }
        rule.finish()
    }
}

impl fmt::Debug for TripKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive(n) => write!(f, "Consecutive({n})"),
            Self::Failures(k) => write!(f, "Failures({k})"),
            Self::FailureRate(rate) => write!(f, "FailureRate({rate})"),
            Self::SlowRate(rate) => write!(f, "SlowRate({rate})"),
            Self::SuccessAverage(rate) => write!(f, "SuccessAverage({rate})"),
            Self::Custom(rule) => write!(f, "Custom({:?})", rule.name),
        }
    }
}

/// A rule for the probes of a half-open circuit: when they close it, and when they open it again. Passed to
/// [`CircuitBreakerBuilder::half_open`](crate::circuit_breaker::CircuitBreakerBuilder::half_open).
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a rule does nothing until it is passed to a builder"]
pub struct HalfOpen {
    kind: HalfOpenKind,
    of: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum HalfOpenKind {
    Successes(u32),
    FailureRate(f64),
}

impl HalfOpen {
    /// Closes when `k` of [`of`](Self::of) probes succeed. Without `of`, `k` consecutive probes must succeed:
    /// one failure opens the circuit again.
    pub const fn successes(k: u32) -> Self {
        Self {
            kind: HalfOpenKind::Successes(k),
            of: None,
        }
    }

    /// Opens again when this share of the probes fails, above 0 and at most 1; closes otherwise. Needs
    /// [`of`](Self::of).
    pub const fn failure_rate(rate: f64) -> Self {
        Self {
            kind: HalfOpenKind::FailureRate(rate),
            of: None,
        }
    }

    /// Sets the number of probes, at least 1.
    pub const fn of(mut self, n: u32) -> Self {
        self.of = Some(n);
        self
    }

    /// Converts the rule into half-open rules, or explains why it is invalid.
    pub(crate) fn rules(self) -> Result<HalfOpenRules, &'static str> {
        let (needed, failure_rate, of) = match (self.kind, self.of) {
            (HalfOpenKind::Successes(k), of) => (k, None, of.unwrap_or(k)),
            (HalfOpenKind::FailureRate(rate), Some(of)) => {
                if !(rate > 0.0 && rate <= 1.0) {
                    return Err("must be a rate above 0 and at most 1");
                }
                (1, Some(rate), of)
            }
            (HalfOpenKind::FailureRate(_), None) => return Err("failure_rate needs of"),
        };
        if needed == 0 || of == 0 {
            return Err("must be at least 1 probe");
        }
        if needed > of {
            return Err("successes must be at most of");
        }
        Ok(HalfOpenRules {
            of,
            needed,
            failure_rate,
            ..HalfOpenRules::DEFAULT
        })
    }
}
