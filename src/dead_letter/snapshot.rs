//! The state of a queue at one moment.

use super::state::timestamp::Timestamp;

/// The state of a [`DeadLetterQueue`](super::DeadLetterQueue) at one moment.
///
/// What is kept is zero for sinks that only pass letters on. Letters that are too old count until they
/// are evicted. Counters are of this process.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the queue.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Letters that are kept, parked ones included: the depth of the queue.
    pub letters: u64,
    /// Number of parked letters among them.
    pub parked: u64,
    /// Their bytes; 0 in memory.
    pub bytes: u64,
    /// When the oldest one was stored.
    pub oldest: Option<Timestamp>,
    /// Letters that were stored.
    pub stored: u64,
    /// Letters that were not stored, or not confirmed in time.
    pub rejected: u64,
    /// Letters evicted because there were too many, or too many bytes.
    pub evicted: u64,
    /// Letters evicted because they were too old.
    pub expired: u64,
    /// Letters that were replayed successfully.
    pub delivered: u64,
    /// Replays that failed.
    pub failed_replays: u64,
    /// Letters that were discarded manually.
    pub discarded: u64,
    /// Lines of files that could not be read.
    pub damaged: u64,
    /// Whether a replay is running.
    pub replaying: bool,
}
