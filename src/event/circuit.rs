//! The states of a circuit breaker and the changes between them.

use std::fmt;
use std::time::Duration;

use crate::instant::Instant;

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls pass and are counted.
    Closed,
    /// Calls are refused until the break is over.
    Open,
    /// A few trial calls pass; their results decide.
    HalfOpen,
    /// Calls are refused because somebody said so ([`isolate`](crate::CircuitBreaker::isolate)).
    Isolated,
    /// Calls pass and nothing is counted ([`disable`](crate::CircuitBreaker::disable)).
    Disabled,
    /// Calls pass and are counted, and the circuit never opens
    /// ([`metrics_only`](crate::CircuitBreaker::metrics_only)).
    MetricsOnly,
}

impl State {
    /// The state as an identifier for logs and metrics, such as `half_open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Isolated => "isolated",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics_only",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a circuit changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// So many failures in a row.
    ConsecutiveFailures,
    /// So many failures in the window.
    Failures,
    /// The share of failures.
    FailureRate,
    /// The share of slow calls.
    SlowRate,
    /// The average of successes.
    SuccessAverage,
    /// The break was over and a call came.
    BreakOver,
    /// The trial calls, or the health check, went well.
    ProbesSucceeded,
    /// The trial calls failed.
    ProbesFailed,
    /// The circuit was half-open for as long as it may.
    HalfOpenTooLong,
    /// A custom rule, with its name ([`Trip::custom`](crate::circuit_breaker::Trip::custom)).
    Custom(&'static str),
    /// A pause ([`pause_until`](crate::CircuitBreaker::pause_until)).
    Paused,
    /// Changed by hand.
    Manual,
}

impl Cause {
    /// The cause as an identifier for logs and metrics, such as `failure_rate`. That of a custom rule
    /// is its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::Failures => "failures",
            Self::FailureRate => "failure_rate",
            Self::SlowRate => "slow_rate",
            Self::SuccessAverage => "success_average",
            Self::BreakOver => "break_over",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::ProbesFailed => "probes_failed",
            Self::HalfOpenTooLong => "half_open_too_long",
            Self::Custom(name) => name,
            Self::Paused => "paused",
            Self::Manual => "manual",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A change of a circuit's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// When, on the breaker's clock.
    pub at: Instant,
    /// How long the break is, when `to` is open. [`Duration::MAX`] never ends by itself.
    pub break_for: Option<Duration>,
    /// How many changes there were before this one. Skipped numbers are changes that left the state
    /// the same, such as a reset of a closed circuit.
    ///
    /// Numbers the transitions of a breaker: observers may hear those of two threads in the other
    /// order, and the one with the largest generation is the newest. Subscriptions have them in
    /// order.
    pub generation: u64,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {}", self.from, self.to, self.cause)?;
        match self.break_for {
            Some(length) => write!(f, ", for {length:?}"),
            None => Ok(()),
        }
    }
}
