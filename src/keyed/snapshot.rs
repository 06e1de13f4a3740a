//! Snapshots of a keyed set.

/// A snapshot of a [`Keyed`](super::Keyed) set.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of keys with a policy of their own.
    pub keys: usize,
    /// The most keys with a policy of their own.
    pub max_keys: usize,
    /// Number of times that a key found the set full.
    pub overflowed: u64,
}

crate::debug::debug_settings!(Snapshot { name, keys, overflowed; max_keys });
