//! Snapshots of shared rate limiters.

use std::time::Duration;

use super::hub::Hub;
use crate::instant::Instant;
use crate::rate_limiter::Quota;

/// The state of a shared limiter, as this process knows it.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the limiter.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The quota.
    pub quota: Quota,
    /// Tokens that the process may spend without a request to the store.
    pub held: u64,
    /// Tokens in the store at its last answer; `None` before the first.
    pub remaining: Option<u64>,
    /// Number of calls that wait for tokens.
    pub waiting: usize,
    /// Recent demand of this process, in tokens per second.
    pub demand: f64,
    /// Recent share of the fleet's tokens that went to this process, from 0.01 to 1. During an outage the process
    /// keeps to this share of the rate.
    pub share: f64,
    /// Number of requests to the store, over all keys.
    pub trips: u64,
    /// Whether the store answers, also about this key.
    pub store_up: bool,
    /// Time since the store stopped answering; zero while it answers.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub lost_for: Duration,
    /// The last error of the store.
    pub last_error: Option<String>,
    /// Number of calls rejected, over all keys. A call that tries again counts again.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
}

impl Snapshot {
    /// Returns a snapshot of the state shared by all keys.
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

/// The state of a keyed shared limiter, as this process knows it.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedSnapshot {
    /// The name of the limiter.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of keys in the table.
    pub keys: usize,
    /// Number of requests to the store.
    pub trips: u64,
    /// Whether the store answers.
    pub store_up: bool,
    /// Time since the store stopped answering; zero while it answers.
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
