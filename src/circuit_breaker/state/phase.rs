//! The phases of a circuit: its states apart from isolation.

use super::half_open::Probes;
use crate::event::State;
use crate::instant::Instant;

/// A phase, and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Closed {
        ramp_up_ends: Option<Instant>,
    },
    /// Open until `until`. A health check may close the circuit earlier, but not before `check_from`.
    Open {
        until: Instant,
        check_from: Instant,
    },
    HalfOpen(Box<Probes>),
    Disabled,
    MetricsOnly,
}

impl Phase {
    /// Returns the phase of a break that is over: the next call is a probe.
    pub(super) const fn over(now: Instant) -> Self {
        Self::Open {
            until: now,
            check_from: now,
        }
    }

    pub(super) const fn state(&self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen(_) => State::HalfOpen,
            Self::Disabled => State::Disabled,
            Self::MetricsOnly => State::MetricsOnly,
        }
    }

    /// Returns when the break of an open circuit ends, whether or not health checks suspend probes.
    pub(crate) const fn break_ends(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Returns from when on a health check may close an open circuit.
    pub(crate) const fn check_from(&self) -> Option<Instant> {
        match self {
            Self::Open { check_from, .. } => Some(*check_from),
            _ => None,
        }
    }
}
