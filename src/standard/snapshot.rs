//! Snapshots of a stack.

use std::time::Duration;

use crate::circuit_breaker;
use crate::rate_limiter;
use crate::retry_budget::Snapshot as BudgetSnapshot;

/// The settings in force and a snapshot of each layer. Returned by [`Standard::snapshot`](super::Standard::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The total timeout, if there is one.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub total_timeout: Option<Duration>,
    /// The attempt timeout, if there is one.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub attempt_timeout: Option<Duration>,
    /// The most attempts of a call, the first one included.
    pub max_attempts: u32,
    /// The limiter, if there is one.
    pub limiter: Option<rate_limiter::Snapshot>,
    /// The budget of the retries, if there is one.
    pub budget: Option<BudgetSnapshot>,
    /// The breaker, if there is one.
    pub breaker: Option<circuit_breaker::Snapshot>,
}

crate::debug::debug_settings!(Snapshot { name, max_attempts, limiter, budget, breaker; total_timeout, attempt_timeout });
