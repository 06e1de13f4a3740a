//! Readings of a set for people.

/// A snapshot of a [`Keyed`](super::Keyed) set.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of keys that have a policy of their own.
    pub keys: usize,
    /// The largest number of such keys.
    pub max_keys: usize,
    /// Number of times that there was no room for a key.
    pub overflowed: u64,
}
