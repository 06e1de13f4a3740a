//! A reading of an injector.

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
    /// Calls while it was enabled, of those that may get faults.
    pub calls: u64,
    /// Calls that were delayed.
    pub latency: u64,
    /// Calls before which the function ran.
    pub behavior: u64,
    /// Calls that failed.
    pub error: u64,
    /// Calls that got another result.
    pub result: u64,
    /// Faults that were drawn, and not injected because of the cap.
    pub capped: u64,
}

impl Snapshot {
    /// Returns the number of calls that got a fault.
    pub const fn injected(&self) -> u64 {
        self.latency + self.behavior + self.error + self.result
    }
}
