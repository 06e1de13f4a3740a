//! Readings of a limiter for people.

use std::time::Duration;

use super::state::Quota;

/// Where a limiter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name.
    pub name: &'static str,
    /// The quotas in force.
    pub quotas: Vec<Quota>,
    /// Tokens available of each quota; below zero while reservations are ahead of the rate.
    pub available: Vec<i64>,
    /// Tokens available of the tightest quota.
    pub remaining: u64,
    /// How long until all quotas are as good as new.
    pub reset_after: Duration,
    /// How many callers wait.
    pub waiting: usize,
    /// How long nothing is admitted, because it was [paused](RateLimiter::pause_for).
    pub paused_for: Duration,
    /// How many calls were rejected. A call that asks again is counted again.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// How many calls shadow mode admitted that would have been rejected.
    pub would_reject: u64,
}
