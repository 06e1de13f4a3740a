//! The system's monotonic clock as [`Instant`]s. Tokio's clock has the same origin.

use std::sync::OnceLock;
use std::time::{Duration, Instant as StdInstant};

use crate::instant::{Instant, nanos};

/// Returns the origin: up to 34 years before the first reading, because a paused tokio clock may read less than that.
/// Some systems cannot represent times so long before they were started.
#[inline]
fn origin() -> StdInstant {
    static ORIGIN: OnceLock<StdInstant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let first = StdInstant::now();
        let before = |power| first.checked_sub(Duration::from_secs(1_u64 << power));
        (0..=30).rev().find_map(before).unwrap_or(first)
    })
}

/// Returns the time on the system's monotonic clock.
#[inline]
pub(super) fn now() -> Instant {
    from_std(StdInstant::now())
}

const YEARS_292: u64 = (i64::MAX / 1_000_000_000) as u64;

#[inline]
pub(super) fn from_std(at: StdInstant) -> Instant {
    let since = at.saturating_duration_since(origin());
    // The fast path covers 292 years; the general conversion costs a fifth of the reading.
    Instant::from_nanos(match since.as_secs() {
        seconds @ 0..=YEARS_292 => seconds * 1_000_000_000 + u64::from(since.subsec_nanos()),
        _ => nanos(since),
    })
}

/// Converts to the system's type. `None` for instants that it cannot represent, which never come.
#[cfg(any(feature = "tokio", test))]
#[inline]
pub(super) fn to_std(at: Instant) -> Option<StdInstant> {
    origin().checked_add(Duration::from_nanos(at.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_goes_both_ways_also_before_the_first_reading() {
        from_std(StdInstant::now());
        let first = StdInstant::now();
        for at in [
            first,
            first + Duration::from_nanos(1),
            first - Duration::from_nanos(1),
            first - Duration::from_secs(1),
        ] {
            assert_eq!(to_std(from_std(at)), Some(at));
        }
        assert!(from_std(first - Duration::from_nanos(1)) < from_std(first));
    }
}
