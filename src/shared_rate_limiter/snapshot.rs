//! Readings of shared limiters, for people.

use std::time::Duration;

use super::hub::Hub;
use crate::instant::Instant;
use crate::rate_limiter::Quota;

/// Where a shared limiter stands, as far as this process knows.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the limiter.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The quota.
    pub quota: Quota,
    /// Tokens that the process holds and may spend without asking.
    pub held: u64,
    /// Tokens in the store when it answered last; `None` if it never has.
    pub remaining: Option<u64>,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Tokens that calls of this process asked for lately, a second.
    pub demand: f64,
    /// The share of the fleet's tokens that this process got lately, from 0.01 to 1: the rate at which it
    /// goes on without the store.
    pub share: f64,
    /// Requests to the store, of all keys.
    pub trips: u64,
    /// Whether the store answers, also about this key.
    pub store_up: bool,
    /// The time for which it has not answered; zero while it answers.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub lost_for: Duration,
    /// The last error of the store.
    pub last_error: Option<String>,
    /// Number of calls rejected, of all keys. A call that asks again is counted again.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
}

impl Snapshot {
    /// Returns a reading of what all keys share.
    pub(super) fn new(hub: &Hub, now: Instant) -> Self {
        let (rejections, shadow) = (hub.rejections.sum(), hub.base.shadow);
        let lost_since = hub.lost_since();
        let lost_for = lost_since.map(|since| now.saturating_duration_since(since));
        Self {
            name: hub.base.name,
            quota: Quota::per_second(1),
            held: 0,
            remaining: None,
            waiting: 0,
            demand: 0.0,
            share: 0.0,
            trips: hub.trips(),
            store_up: lost_since.is_none(),
            lost_for: lost_for.unwrap_or_default(),
            last_error: hub.last_error().map(|error| error.to_string()),
            rejected: if shadow { 0 } else { rejections },
            shadow,
            would_reject: if shadow { rejections } else { 0 },
        }
    }
}

/// Where a keyed shared limiter stands.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedSnapshot {
    /// The name of the limiter.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of keys that the process knows.
    pub keys: usize,
    /// Requests to the store.
    pub trips: u64,
    /// Whether the store answers.
    pub store_up: bool,
    /// The time for which it has not answered; zero while it answers.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub lost_for: Duration,
    /// The last error of the store.
    pub last_error: Option<String>,
    /// Number of calls rejected.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
}

impl KeyedSnapshot {
    pub(super) fn new(hub: &Hub, now: Instant, keys: usize) -> Self {
        let all = Snapshot::new(hub, now);
        Self {
            name: all.name,
            keys,
            trips: all.trips,
            store_up: all.store_up,
            lost_for: all.lost_for,
            last_error: all.last_error,
            rejected: all.rejected,
            shadow: all.shadow,
            would_reject: all.would_reject,
        }
    }
}
