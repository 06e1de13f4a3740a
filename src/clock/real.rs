//! The system's monotonic clock as [`Instant`]s. Tokio's clock is on the same line.

use std::sync::OnceLock;
use std::time::{Duration, Instant as StdInstant};

use super::{Instant, nanos};

/// The instant of the first reading is this far from zero, because a paused tokio clock may stand
/// before it.
const MARGIN: Duration = Duration::from_secs(1 << 30);

#[inline]
fn first_reading() -> StdInstant {
    static FIRST: OnceLock<StdInstant> = OnceLock::new();
    *FIRST.get_or_init(StdInstant::now)
}

#[inline]
pub(super) fn from_std(at: StdInstant) -> Instant {
    let first = first_reading();
    let margin = nanos(MARGIN);
    Instant::from_nanos(match at.checked_duration_since(first) {
        Some(after) => margin.saturating_add(nanos(after)),
        None => margin.saturating_sub(nanos(first.saturating_duration_since(at))),
    })
}

/// `None` for instants that the system's clock cannot express: they never come.
#[cfg(any(feature = "tokio", test))]
#[inline]
pub(super) fn to_std(at: Instant) -> Option<StdInstant> {
    let margin = nanos(MARGIN);
    match at.as_nanos().checked_sub(margin) {
        Some(after) => first_reading().checked_add(Duration::from_nanos(after)),
        None => first_reading().checked_sub(Duration::from_nanos(margin - at.as_nanos())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_goes_both_ways_also_before_the_first_reading() {
        let first = first_reading();
        for at in [
            first,
            first + Duration::from_nanos(1),
            first - Duration::from_nanos(1),
        ] {
            assert_eq!(to_std(from_std(at)), Some(at));
        }
        assert!(from_std(first - Duration::from_nanos(1)) < from_std(first));
    }
}
