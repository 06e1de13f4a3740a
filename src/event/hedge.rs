//! Events of hedges.

use std::fmt;
use std::time::Duration;

use super::count::Count;
use crate::instant::Rounded;

/// An event of a hedge, for one call.
///
/// A call for which copies were launched ends in one of [`Won`](Self::Won), [`Saved`](Self::Saved) and
/// [`Lost`](Self::Lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HedgeEvent {
    /// A further copy of the call was launched.
    #[non_exhaustive]
    Launched {
        /// Number of the copy, from 1.
        copy: u32,
        /// The time since the start of the first copy.
        after: Duration,
        /// Why the copy was launched.
        cause: HedgeCause,
    },
    /// A copy answered while the first one was still running.
    #[non_exhaustive]
    Won {
        /// Number of the copy, from 1.
        copy: u32,
    },
    /// A copy answered after the first one had failed.
    #[non_exhaustive]
    Saved {
        /// Number of the copy, from 1.
        copy: u32,
    },
    /// The copies changed nothing: the first one answered, all of them failed, or the call was cancelled.
    #[non_exhaustive]
    Lost {
        /// Number of copies launched.
        copies: u32,
    },
    /// A copy was due and was not launched.
    #[non_exhaustive]
    NotSent {
        /// Why it was not launched.
        reason: NotSent,
    },
}

impl HedgeEvent {
    /// Returns the event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Launched { .. } => "hedge_launched",
            Self::Won { .. } => "hedge_won",
            Self::Saved { .. } => "hedge_saved",
            Self::Lost { .. } => "hedge_lost",
            Self::NotSent { .. } => "hedge_not_sent",
        }
    }
}

impl fmt::Display for HedgeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launched { copy, after, cause } => {
                write!(f, "launched copy {copy} after {}: {cause}", Rounded(*after))
            }
            Self::Won { copy } => write!(f, "copy {copy} was faster"),
            Self::Saved { copy } => write!(f, "copy {copy} replaced a failure"),
            Self::Lost { copies } => write!(f, "{} in vain", Count(*copies, "copy", "copies")),
            Self::NotSent { reason } => write!(f, "no copy: {reason}"),
        }
    }
}

/// Why a copy was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HedgeCause {
    /// The copies in flight took longer than the delay.
    Delay,
    /// A copy failed.
    Failure,
}

impl HedgeCause {
    /// Returns the cause as an identifier for logs and metrics, such as `delay`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Failure => "failure",
        }
    }
}

impl fmt::Display for HedgeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a copy that was due was not launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotSent {
    /// The operation is not idempotent.
    NotIdempotent,
    /// The operation cannot be run again.
    NotRepeatable,
    /// The call is a copy already.
    Nested,
    /// The call is a probe of a circuit that is half-open.
    HalfOpen,
    /// The dependency has asked to slow down.
    Throttled,
    /// The copy would start after the deadline of the call.
    Deadline,
    /// Too few latencies have been recorded for a quantile.
    TooFewCalls,
    /// The allowed extra load, or the budget shared with retries, is used up.
    BudgetEmpty,
}

impl NotSent {
    /// Returns the reason as an identifier for logs and metrics, such as `budget_empty`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotIdempotent => "not_idempotent",
            Self::NotRepeatable => "not_repeatable",
            Self::Nested => "nested",
            Self::HalfOpen => "half_open",
            Self::Throttled => "throttled",
            Self::Deadline => "deadline",
            Self::TooFewCalls => "too_few_calls",
            Self::BudgetEmpty => "budget_empty",
        }
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotIdempotent => "not idempotent",
            Self::NotRepeatable => "not repeatable",
            Self::Nested => "nested",
            Self::HalfOpen => "half-open",
            Self::Throttled => "throttled",
            Self::Deadline => "deadline",
            Self::TooFewCalls => "too few calls",
            Self::BudgetEmpty => "budget empty",
        })
    }
}
