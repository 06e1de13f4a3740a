//! Snapshots of a rate limiter.

use std::time::Duration;

use super::state::Quota;

/// A snapshot of a limiter.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The quotas in force.
    pub quotas: Vec<Quota>,
    /// Tokens available of each quota; below zero while a debt is unpaid.
    pub available: Vec<i64>,
    /// Tokens available of the quota with the fewest.
    pub remaining: u64,
    /// The time until all quotas are full, if no tokens are taken.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub reset_after: Duration,
    /// Number of calls in the wait queue.
    pub waiting: usize,
    /// Remaining time of the [pause](super::RateLimiter::pause_for).
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub paused_for: Duration,
    /// Number of rejected calls. A call that is repeated is counted again.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted although they would have been rejected.
    pub would_reject: u64,
}
