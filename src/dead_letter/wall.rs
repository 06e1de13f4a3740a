//! Wall-clock time.

use std::time::{Duration, SystemTime};

use super::state::timestamp::Timestamp;

/// A source of wall-clock time.
pub(super) type WallClock = dyn Fn() -> Timestamp + Send + Sync;

/// Returns the system's wall-clock time.
pub(super) fn system_time() -> Timestamp {
    SystemTime::now().into()
}

/// Rounds down to microseconds. Times before 1970 become the epoch.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        Self::UNIX_EPOCH.saturating_add(since.unwrap_or_default())
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(time.as_micros())
    }
}
