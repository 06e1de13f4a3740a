//! The state of a queue at one moment.

use super::state::timestamp::Timestamp;

/// The state of a [`DeadLetterQueue`](super::DeadLetterQueue) at one moment.
///
/// Letters and bytes are zero for sinks that only pass letters on. Letters that are too old count until they are
/// evicted. Counters start with the process.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the queue.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of stored letters, parked ones included.
    pub letters: u64,
    /// Number of parked letters among them.
    pub parked: u64,
    /// Their size in bytes; zero in memory.
    pub bytes: u64,
    /// When the oldest letter was stored.
    pub oldest: Option<Timestamp>,
    /// Number of letters stored by this process.
    pub stored: u64,
    /// Number of letters that were not stored, or not confirmed before the deadline or the drop of their push.
    pub rejected: u64,
    /// Number of letters evicted because there were too many, or too many bytes.
    pub evicted: u64,
    /// Number of letters evicted because they were too old.
    pub expired: u64,
    /// Number of letters replayed successfully.
    pub delivered: u64,
    /// Number of failed replays.
    pub failed_replays: u64,
    /// Number of letters discarded manually.
    pub discarded: u64,
    /// Number of lines in files that could not be read.
    pub damaged: u64,
    /// Whether a replay is running.
    pub replaying: bool,
}
