//! Decisions about calls.

use std::time::Duration;

use super::state::{Availability, Unavailable};
use crate::instant::Instant;

/// The decision of a limiter about a call, actual or predicted, and the state of the limiter.
///
/// All fields are readings of one instant, so they can be sent to a client, for example in the `RateLimit` fields of
/// HTTP.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Whether the call is admitted.
    pub allowed: bool,
    /// Number of tokens when full: the burst, or the limit of the window. With several quotas, that of the one with
    /// the fewest tokens left.
    pub limit: u64,
    /// The time that `limit` counts for: the window, or the time in which a bucket earns that many tokens, which is
    /// the period of the quota unless a burst was set.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub window: Duration,
    /// Number of tokens left after this decision. Zero while the limit is paused, or waiters need all of them.
    pub remaining: u64,
    /// The time until the limit is full, if no tokens are taken.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub reset_after: Duration,
    /// The time until the call would be admitted, if no other call comes first. `None` if it is admitted now, or
    /// never because it costs more than the limit holds.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub retry_after: Option<Duration>,
}

impl Decision {
    /// The decision about a key that finds the table full.
    pub(super) const NO_ROOM: Self = Self {
        allowed: false,
        limit: 0,
        window: Duration::ZERO,
        remaining: 0,
        reset_after: Duration::ZERO,
        retry_after: None,
    };

    pub(super) fn new(
        now: Instant,
        ready: Result<(), Unavailable>,
        availability: Availability,
    ) -> Self {
        Self {
            allowed: ready.is_ok(),
            limit: availability.limit,
            window: availability.window,
            remaining: u64::try_from(availability.available).unwrap_or(0),
            reset_after: availability.full_at.saturating_duration_since(now),
            retry_after: match ready {
                Err(Unavailable::Until(at)) => Some(at.saturating_duration_since(now)),
                _ => None,
            },
        }
    }
}
