//! Snapshots of a hedge.

use std::time::Duration;

/// Settings and counts of a hedge at one moment. Returned by [`Hedge::snapshot`](super::Hedge::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The delay before the first copy; `None` if it is computed for each call, or while too few latencies are
    /// known.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub delay: Option<Duration>,
    /// Latencies that the delay is computed from; zero if it is not computed from latencies.
    pub samples: u64,
    /// Calls since it was built. With a retry outside, each attempt counts.
    pub calls: u64,
    /// Copies launched since it was built.
    pub launched: u64,
    /// Copies that answered while the first one was running.
    pub won: u64,
    /// Copies that answered after the first one had failed.
    pub saved: u64,
    /// Copies of calls that ended otherwise, also by a cancellation.
    pub lost: u64,
    /// Copies that were due and not launched. Calls that are never hedged, such as those that are not
    /// idempotent, do not count.
    pub not_sent: u64,
    /// Copies in flight.
    pub in_flight: u64,
}

impl Snapshot {
    /// Copies for each call since it was built.
    pub fn extra_load(&self) -> f64 {
        if self.calls == 0 {
            return 0.0;
        }
        self.launched as f64 / self.calls as f64
    }
}
