//! The rules of a circuit as users write them: when it opens, and when it closes again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::trial::HalfOpenRules;
use crate::event::Cause;
use crate::window::{Counts, TimeWindow};

/// A rule that opens the circuit. Passed to [`CircuitBreakerBuilder::trip_on`](crate::circuit_breaker::CircuitBreakerBuilder::trip_on).
///
/// All limits are reached with "at least": five consecutive failures open at the fifth, a rate of
/// 0.5 opens at 0.5.
///
/// # Example
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
///     Trip::custom("half and five", |seen| seen.failures >= 5 && seen.failure_rate() >= 0.5)
///         .of_last(100),
/// ];
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a rule does nothing until it is given to a builder"]
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

/// A rule over the counts of a window, with its name. A trait object in a box, so that rules of all kinds
/// are small.
pub(crate) struct CustomRule {
    name: &'static str,
    pub(super) holds: Box<dyn Fn(&Counts) -> bool + Send + Sync>,
}

/// The window that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Span {
    Calls(u32),
    Time(Duration),
}

impl Trip {
    /// The largest window of calls.
    const MAX_CALLS: u32 = 1 << 20;
    /// How many slices a window of time has by default.
    const SLICES: u32 = 10;
    const MIN_CALLS: u32 = 20;

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

    /// `n` failures in a row. Has no window; the cheapest rule.
    pub const fn consecutive(n: u32) -> Self {
        Self::of(TripKind::Consecutive(n))
    }

    /// `k` failures among the last calls or within a time.
    pub const fn failures(k: u32) -> Self {
        Self::of(TripKind::Failures(k))
    }

    /// A share of failures, above 0 and at most 1, among the last calls or within a time.
    pub const fn failure_rate(rate: f64) -> Self {
        Self::of(TripKind::FailureRate(rate))
    }

    /// A share of slow calls, above 0 and at most 1, among the last calls or within a time. Needs
    /// [`CircuitBreakerBuilder::slow_call`](crate::circuit_breaker::CircuitBreakerBuilder::slow_call). A slow failure counts here and as a failure.
    pub const fn slow_rate(rate: f64) -> Self {
        Self::of(TripKind::SlowRate(rate))
    }

    /// An exponentially weighted average of successes below `rate`, above 0 and at most 1, as
    /// Finagle's failure accrual has it: weights fall by the factor e over the window.
    ///
    /// A window of calls must have been full once, one of time must have passed once. Every call
    /// writes to shared memory unless the average is 1; prefer
    /// [`failure_rate`](Self::failure_rate). Calls that end at one instant of the clock weigh
    /// nothing in a window of time.
    pub const fn success_average(rate: f64) -> Self {
        Self::of(TripKind::SuccessAverage(rate))
    }

    /// A rule of your own over the [`Counts`] of a window, with a name for [`Cause::Custom`]. Opens
    /// when it returns `true`.
    ///
    /// Called after each call while the window contains failures or slow calls and at least
    /// [`min_calls`](Self::min_calls) calls. Called outside locks. A panic passes through to the
    /// caller; the call has been recorded by then.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::circuit_breaker::Trip;
    /// use backstop::CircuitBreaker;
    ///
    /// // Failures weigh twice as much as slow calls.
    /// let weighted = Trip::custom("weighted", |seen| 2 * seen.failures + seen.slow >= seen.calls);
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
        let holds = Box::new(rule);
        Self::of(TripKind::Custom(Arc::new(CustomRule { name, holds })))
    }

    /// Looks at the last `n` calls, from 1 to 1 048 576.
    pub const fn of_last(mut self, n: u32) -> Self {
        self.calls = Some(n);
        self
    }

    /// Looks at the calls that ended within `window`, of at most 1024 [`slices`](Self::slices) of at
    /// least 100 µs.
    pub const fn within(mut self, window: Duration) -> Self {
        self.time = Some(window);
        self
    }

    /// How many slices a window of time has. Default 10: what is counted covers between nine tenths
    /// of the window and all of it.
    pub const fn slices(mut self, slices: u32) -> Self {
        self.slices = Some(slices);
        self
    }

    /// The first slice of a window of time begins with the first call, also after the circuit has
    /// closed again and after all calls have left the window. By default slices are aligned to the clock.
    pub const fn from_first_call(mut self) -> Self {
        self.from_first_call = true;
        self
    }

    /// A rate says nothing before there are this many calls in the window. Default 20, or the
    /// window's size if that is smaller; at least 1.
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    pub(super) fn span(&self) -> Option<Span> {
        let time = self.time.map(Span::Time);
        time.or(self.calls.map(Span::Calls))
    }

    pub(super) fn slice_count(&self) -> u32 {
        self.slices.unwrap_or(Self::SLICES)
    }

    /// The number of calls that a window needs before the rule says anything.
    pub(super) fn least_calls(&self) -> u32 {
        let preset = match (&self.kind, self.calls) {
            (TripKind::Failures(_), _) => 1,
            (_, Some(calls)) => Self::MIN_CALLS.min(calls),
            _ => Self::MIN_CALLS,
        };
        self.min_calls.unwrap_or(preset)
    }

    /// Explains what is wrong with the rule, in a breaker with or without `slow_call`.
    pub(crate) fn check(&self, slow_calls: bool) -> Result<(), &'static str> {
        let is_rate = |rate: &f64| *rate > 0.0 && *rate <= 1.0;
        match &self.kind {
            TripKind::Consecutive(0) | TripKind::Failures(0) => {
                return Err("needs a number of failures of at least 1");
            }
            TripKind::Consecutive(_)
                if self.span().is_some()
                    || (self.slices, self.min_calls, self.from_first_call)
                        != (None, None, false) =>
            {
                return Err("gives a window to consecutive failures, which have none");
            }
            TripKind::Consecutive(_) => return Ok(()),
            TripKind::Failures(_) if self.min_calls.is_some() => {
                return Err("gives min_calls to a number of failures, which needs none");
            }
            TripKind::FailureRate(rate)
            | TripKind::SlowRate(rate)
            | TripKind::SuccessAverage(rate)
                if !is_rate(rate) =>
            {
                return Err("needs a rate above 0 and at most 1");
            }
            TripKind::SlowRate(_) if !slow_calls => return Err("has a slow rate but no slow_call"),
            _ => {}
        }
        if self.min_calls == Some(0) {
            return Err("needs min_calls of at least 1");
        }
        if self.calls.is_some() && self.time.is_some() {
            return Err("has both of_last and within");
        }
        match self.span() {
            None => return Err("needs of_last or within"),
            Some(Span::Calls(0)) => return Err("needs a window of at least 1 call"),
            Some(Span::Calls(calls)) => {
                if calls > Self::MAX_CALLS {
                    return Err("needs a window of at most 1048576 calls");
                }
                if self.slices.is_some() || self.from_first_call {
                    return Err(
                        "sets slices or from_first_call on a window of calls, which has neither",
                    );
                }
                if self.min_calls.is_some_and(|min| min > calls) {
                    return Err("has min_calls above the size of its window");
                }
                if matches!(self.kind, TripKind::Failures(k) if k > calls) {
                    return Err("asks for more failures than its window holds");
                }
            }
            Some(Span::Time(window)) => {
                let slices = self.slice_count();
                if slices == 0 || slices > TimeWindow::MAX_SLICES {
                    return Err("needs from 1 to 1024 slices");
                }
                if window / slices < TimeWindow::MIN_SLICE {
                    return Err("needs slices of at least 100 µs");
                }
            }
        }
        Ok(())
    }
}

/// Custom rules are the same if one is a clone of the other.
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

/// When the trial calls of a half-open circuit close it, and when they open it again. Passed to
/// [`CircuitBreakerBuilder::half_open`](crate::circuit_breaker::CircuitBreakerBuilder::half_open).
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a rule does nothing until it is given to a builder"]
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
    /// Closes when `k` trial calls succeed, [`of`](Self::of) so many; without `of`, `k` in a row: one
    /// failure opens again.
    pub const fn successes(k: u32) -> Self {
        Self {
            kind: HalfOpenKind::Successes(k),
            of: None,
        }
    }

    /// Opens again when this share of the trial calls fails, above 0 and at most 1; closes otherwise.
    /// Needs [`of`](Self::of).
    pub const fn failure_rate(rate: f64) -> Self {
        Self {
            kind: HalfOpenKind::FailureRate(rate),
            of: None,
        }
    }

    /// How many trial calls there are.
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
                    return Err("needs a rate above 0 and at most 1");
                }
                (1, Some(rate), of)
            }
            (HalfOpenKind::FailureRate(_), None) => return Err("needs a number of trial calls"),
        };
        if needed == 0 || of == 0 {
            return Err("needs at least 1 trial call");
        }
        if needed > of {
            return Err("asks for more successes than trial calls");
        }
        Ok(HalfOpenRules {
            of,
            needed,
            failure_rate,
            ..HalfOpenRules::DEFAULT
        })
    }
}
