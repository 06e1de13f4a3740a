//! Events of dead letter queues.

use std::fmt;

use super::count::Count;

/// An event of a dead letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterEvent {
    /// A letter was stored.
    #[non_exhaustive]
    Stored {
        /// The number of the letter.
        id: u64,
    },
    /// A letter was not stored.
    #[non_exhaustive]
    NotStored {
        /// The reason, as an identifier such as `storage_full`.
        reason: &'static str,
    },
    /// A stored letter was evicted to keep the queue within its limits.
    #[non_exhaustive]
    Evicted {
        /// The number of the letter.
        id: u64,
        /// The limit that caused the eviction.
        cause: Eviction,
    },
    /// A letter was parked: it is kept, and not replayed.
    #[non_exhaustive]
    Parked {
        /// The number of the letter.
        id: u64,
        /// Number of its replays.
        replays: u32,
    },
    /// A replay ended.
    #[non_exhaustive]
    ReplayFinished {
        /// The reason, as an identifier such as `finished` or `circuit_open`.
        end: &'static str,
        /// Number of letters delivered.
        delivered: u64,
        /// Number of replays that failed.
        failed: u64,
    },
    /// The remains of an unfinished write were removed from a file, after a crash or a power failure. The
    /// write had not been acknowledged.
    #[non_exhaustive]
    TornTail {
        /// The length of the remains.
        bytes: u64,
    },
    /// Damaged lines of a file were skipped.
    #[non_exhaustive]
    Damaged {
        /// Number of lines.
        lines: u64,
    },
    /// A file could not be deleted or truncated. The next write tries again.
    #[non_exhaustive]
    MaintenanceFailed {
        /// The kind of the I/O error.
        error: std::io::ErrorKind,
    },
}

impl LetterEvent {
    /// Returns the event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stored { .. } => "letter_stored",
            Self::NotStored { .. } => "letter_not_stored",
            Self::Evicted { .. } => "letter_evicted",
            Self::Parked { .. } => "letter_parked",
            Self::ReplayFinished { .. } => "replay_finished",
            Self::TornTail { .. } => "torn_tail",
            Self::Damaged { .. } => "letters_damaged",
            Self::MaintenanceFailed { .. } => "maintenance_failed",
        }
    }

    /// Returns the event of an eviction, for sinks of your own.
    pub const fn evicted(id: u64, cause: Eviction) -> Self {
        Self::Evicted { id, cause }
    }
}

impl fmt::Display for LetterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { id } => write!(f, "stored letter {id}"),
            Self::NotStored { reason } => write!(f, "could not store a letter: {reason}"),
            Self::Evicted { id, cause } => write!(f, "evicted letter {id}: {cause}"),
            Self::Parked { id, replays } => {
                write!(
                    f,
                    "parked letter {id} after {}",
                    Count(*replays, "replay", "replays")
                )
            }
            Self::ReplayFinished {
                end,
                delivered,
                failed,
            } => write!(
                f,
                "replay ended ({end}): {delivered} delivered, {failed} failed"
            ),
            Self::TornTail { bytes } => {
                let bytes = Count(*bytes, "byte", "bytes");
                write!(f, "removed {bytes} of a write that was cut off")
            }
            Self::Damaged { lines } => {
                write!(
                    f,
                    "skipped {}",
                    Count(*lines, "damaged line", "damaged lines")
                )
            }
            Self::MaintenanceFailed { error } => {
                write!(f, "could not delete or rewrite a file: {error}")
            }
        }
    }
}

/// The limit that a letter was evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// The limit on the number of letters.
    Count,
    /// The limit on the bytes of all letters.
    Bytes,
    /// The limit on the age of a letter.
    Age,
}

impl Eviction {
    /// Returns the limit as an identifier for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Age => "age",
        }
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
