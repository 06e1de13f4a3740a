//! What the machine decides about a call that wants to start.

use std::time::Duration;

use crate::backoff::Progress;
use crate::event::Cause;
use crate::instant::Instant;

/// The answer to a call that wants to start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Admission {
    /// It is admitted. Probes have a number, other calls have zero.
    Admitted { probe: u64 },
    /// The dependency is isolated.
    Isolated,
    /// It is rejected; until when, if that is known.
    Refused { until: Option<Instant> },
    /// The circuit has to open first.
    Due(Due),
}

/// An opening that waits for the length of its break.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Due {
    pub(super) generation: u64,
    pub(super) cause: Cause,
    pub(super) at: Instant,
    /// What share of the calls was bad.
    pub(crate) rate: f64,
    /// Number of consecutive openings without a close, this one included.
    pub(crate) trips: u32,
    pub(crate) progress: Progress,
}

/// The length of a break, and the backoff after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakLength {
    pub(crate) length: Duration,
    pub(crate) progress: Progress,
}
