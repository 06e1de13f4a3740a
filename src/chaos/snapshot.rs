//! Snapshots of an injector.

use super::state::Fault;

/// A snapshot of an injector of faults. Returned by [`Chaos::snapshot`](super::Chaos::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Whether faults are injected.
    pub enabled: bool,
    /// The rate of each fault.
    pub rates: [(Fault, f64); 4],
    /// The largest share of calls that get a fault.
    pub max_share: f64,
    /// Number of calls that could have got a fault.
    pub calls: u64,
    /// Number of calls that were delayed.
    pub latency: u64,
    /// Number of calls before which the function ran.
    pub behavior: u64,
    /// Number of calls that failed with an injected error.
    pub error: u64,
    /// Number of calls that got an injected result.
    pub result: u64,
    /// Number of faults that were not injected because of the cap.
    pub capped: u64,
}

impl Snapshot {
    /// Returns the number of calls that got a fault.
    pub const fn injected(&self) -> u64 {
        self.latency + self.behavior + self.error + self.result
    }
}
