//! The states of a circuit and the transitions between them.

use std::fmt;
use std::time::Duration;

use crate::instant::{Instant, Rounded};

/// The state of a circuit.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls are admitted and counted.
    Closed,
    /// Calls are rejected until the break is over.
    Open,
    /// A few probes are admitted; their results decide.
    HalfOpen,
    /// Calls are rejected until the circuit is changed manually ([`isolate`](crate::CircuitBreaker::isolate)).
    Isolated,
    /// Calls are admitted and nothing is counted ([`disable`](crate::CircuitBreaker::disable)).
    Disabled,
    /// Calls are admitted and counted, and the circuit never opens
    /// ([`metrics_only`](crate::CircuitBreaker::metrics_only)).
    MetricsOnly,
}

impl State {
    /// Returns the state as an identifier for logs and metrics, such as `half_open`.
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
        f.pad(match self {
            Self::HalfOpen => "half-open",
            Self::MetricsOnly => "metrics only",
            _ => self.as_str(),
        })
    }
}

/// Why a circuit changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Enough failures in a row.
    ConsecutiveFailures,
    /// Enough failures in the window.
    Failures,
    /// Too large a share of failed calls.
    FailureRate,
    /// Too large a share of slow calls.
    SlowRate,
    /// Too small a moving average of successes.
    SuccessAverage,
    /// The break was over, and a call arrived.
    BreakOver,
    /// Enough probes, or the health check, succeeded.
    ProbesSucceeded,
    /// Too many probes failed.
    ProbesFailed,
    /// The circuit was half-open for the maximum time.
    HalfOpenTooLong,
    /// A custom rule, with its name ([`Trip::custom`](crate::circuit_breaker::Trip::custom)).
    Custom(&'static str),
    /// The circuit was paused ([`pause_until`](crate::CircuitBreaker::pause_until)).
    Paused,
    /// The state was changed manually.
    Manual,
}

impl Cause {
    /// Returns the cause as an identifier for logs and metrics, such as `failure_rate`. That of a custom
    /// rule is its name.
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
        f.pad(match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::FailureRate => "failure rate",
            Self::SlowRate => "slow rate",
            Self::SuccessAverage => "success average",
            Self::BreakOver => "break over",
            Self::ProbesSucceeded => "probes succeeded",
            Self::ProbesFailed => "probes failed",
            Self::HalfOpenTooLong => "half-open too long",
            _ => self.as_str(),
        })
    }
}

/// A change of the state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// The cause of the change.
    pub cause: Cause,
    /// The time of the change, on the breaker's clock.
    pub at: Instant,
    /// The length of the break, if `to` is open. One of [`Duration::MAX`] has no end.
    pub break_for: Option<Duration>,
    /// Number of changes before this one. Numbers are skipped by changes that leave the state as it was, such as a
    /// reset of a closed circuit.
    ///
    /// Observers may receive the transitions of two threads in reverse order: the one with the largest generation is
    /// the newest. Subscriptions receive them in order.
    pub generation: u64,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {}", self.from, self.to, self.cause)?;
        match self.break_for {
            Some(Duration::MAX) => f.write_str(", until it is closed by hand"),
            Some(length) => write!(f, ", for {}", Rounded(length)),
            None => Ok(()),
        }
    }
}
