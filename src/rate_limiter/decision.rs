//! Decisions about calls.

use std::time::Duration;

use super::state::{Availability, Limit, Unavailable};
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
    /// The time until more than `remaining` tokens are left, if no tokens are taken. `None` if the limit is full, or has
    /// no room for more.
    ///
    /// With several quotas, the time until all of them have more. Behind waiters and during a pause, the time until a
    /// call that costs one token would be admitted.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub more_after: Option<Duration>,
}

/// The state of a limit, as far as a decision reports it.
pub(super) struct Reading {
    pub(super) availability: Availability,
    /// Whether more tokens are available, or when they will be.
    pub(super) more: Result<(), Unavailable>,
}

impl Reading {
    /// Reads a limit to which calls have access.
    pub(super) fn of(limit: &dyn Limit, now: Instant) -> Self {
        let availability = limit.availability(now);
        Self {
            availability,
            more: limit.has_more(now, availability.room(0)),
        }
    }

    /// Returns a reading in which nothing remains until a call that costs one token would be admitted.
    pub(super) fn of_closed(mut availability: Availability, more: Result<(), Unavailable>) -> Self {
        availability.available = 0;
        Self { availability, more }
    }
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
        more_after: None,
    };

    pub(super) fn new(now: Instant, ready: Result<(), Unavailable>, reading: &Reading) -> Self {
        let availability = &reading.availability;
        let after = |ready| match ready {
            Err(Unavailable::Until(at)) => Some(Instant::saturating_duration_since(at, now)),
            _ => None,
        };
        Self {
            allowed: ready.is_ok(),
            limit: availability.limit,
            window: availability.window,
            remaining: availability.room(0),
            reset_after: availability.full_at.saturating_duration_since(now),
            retry_after: after(ready),
            more_after: after(reading.more),
        }
    }
}
