//! Descriptions of policies: their clock and their layers.

use std::fmt;
use std::time::Duration;

use crate::clock::ClockHandle;

/// The clock and the layers of a policy, for [`call_reported`](super::Policy::call_reported) and
/// [`Pipeline`](super::Pipeline).
///
/// A policy of your own without a clock needs an empty `impl`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy that describes itself",
    note = "`call_reported` and `Pipeline` ask a policy for its clock and its layers",
    note = "add `impl Describe for YourPolicy {{}}` to a policy of your own"
)]
pub trait Describe {
    /// Returns the clock that this policy reads, if any. For a stack, the outermost one.
    fn clock(&self) -> Option<ClockHandle> {
        None
    }

    /// Adds the layers of this policy, outermost first, for [`Pipeline::check`](super::Pipeline::check).
    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Other);
    }

    /// Adds the clock of each layer, in the order of [`describe`](Self::describe). A policy that forwards `describe`
    /// to inner policies must forward this too.
    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        clocks.push(self.clock());
    }
}

/// The kind of a layer, for [`Pipeline::check`](crate::Pipeline::check).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerKind {
    /// A timeout.
    Timeout {
        /// The limit, if it is the same for every call.
        limit: Option<Duration>,
    },
    /// A retry.
    Retry {
        /// The number of attempts, including the first.
        max_attempts: u32,
    },
    /// A circuit breaker.
    CircuitBreaker,
    /// A bulkhead.
    Bulkhead {
        /// Whether an algorithm adapts the limit.
        adaptive: bool,
    },
    /// A client-side throttle.
    Throttle,
    /// A load shedder.
    LoadShedder {
        /// Whether it sheds by queue delay instead of a signal.
        queue_delay: bool,
    },
    /// A classifier.
    Classify,
    /// A rate limiter.
    RateLimiter,
    /// A set of endpoints.
    Endpoints,
    /// An injector of faults.
    Chaos,
    /// A hedge.
    Hedge,
    /// A fallback, or a policy that returns stale values.
    Fallback,
    /// A policy that lets calls with one key share an execution.
    Coalesce,
    /// An [`Inspect`](super::Inspect).
    Inspect,
    /// A [`Guard`](super::Guard).
    Guard,
    /// Any other policy.
    Other,
}

impl LayerKind {
    /// Returns whether the layer may decide by the verdicts of inner layers.
    pub(super) const fn reads_verdicts(&self) -> bool {
        match self {
            Self::Retry { .. }
            | Self::CircuitBreaker
            | Self::Throttle
            | Self::Hedge
            | Self::Fallback
            | Self::Endpoints
            | Self::Guard
            // Decides by verdicts if it pauses on hints or is adaptive.
            | Self::RateLimiter
            | Self::Other => true,
            Self::Bulkhead { adaptive } => *adaptive,
            Self::Timeout { .. }
            | Self::LoadShedder { .. }
            | Self::Classify
            | Self::Chaos
            | Self::Coalesce
            | Self::Inspect => false,
        }
    }

    /// Returns whether the layer may cut off an operation.
    pub(super) const fn may_time_out(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Other)
    }

    /// Returns the kind as an identifier for logs and metrics, such as `circuit_breaker`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Retry { .. } => "retry",
            Self::CircuitBreaker => "circuit_breaker",
            Self::Bulkhead { .. } => "bulkhead",
            Self::Throttle => "throttle",
            Self::LoadShedder { .. } => "load_shedder",
            Self::Classify => "classify",
            Self::RateLimiter => "rate_limiter",
            Self::Endpoints => "endpoints",
            Self::Chaos => "chaos",
            Self::Hedge => "hedge",
            Self::Fallback => "fallback",
            Self::Coalesce => "coalesce",
            Self::Inspect => "inspect",
            Self::Guard => "guard",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CircuitBreaker => "circuit breaker",
            Self::LoadShedder { .. } => "load shedder",
            Self::RateLimiter => "rate limiter",
            _ => self.as_str(),
        })
    }
}
