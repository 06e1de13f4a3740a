//! Snapshots of a coalescing policy.

/// Counts of a [`Coalesce`](super::Coalesce). Returned by [`Coalesce::snapshot`](super::Coalesce::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of keys being executed.
    pub flights: usize,
    /// Number of calls that wait for the result of another call.
    pub waiting: usize,
    /// Number of calls that executed their operation.
    pub executed: u64,
    /// Number of calls that got the result of another call.
    pub shared: u64,
    /// Number of waiting calls that took over from a cancelled one.
    pub promoted: u64,
}
