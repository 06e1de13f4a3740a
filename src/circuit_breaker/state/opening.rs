//! An opening of the circuit, which takes two steps.
//!
//! The length of a break may come from user code, so it is computed between the steps, outside the lock.

use std::time::Duration;

use crate::backoff::Progress;
use crate::event::Cause;
use crate::instant::Instant;

/// The first step: the machine has decided to open and needs the length of the break.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PendingOpening {
    /// The opening is void once the machine has another generation.
    pub(super) generation: u64,
    pub(super) cause: Cause,
    pub(super) at: Instant,
    /// The share of calls that failed or were slow.
    pub(crate) rate: f64,
    /// Number of consecutive openings without a close, this one included.
    pub(crate) trips: u32,
    pub(crate) progress: Progress,
}

/// The second step: the length of the break, and the backoff's progress after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakLength {
    pub(crate) length: Duration,
    /// The part of it that no health check ends, because the user or the server set it.
    pub(crate) without_checks: Duration,
    pub(crate) progress: Progress,
}
