//! Clocks that are set back. Those of the crate never are; a custom clock that is must not make any
//! pattern freeze until the time is right again, or burst.

use std::time::Duration;

use crate::instant::Instant;

/// How late a reading of the clock may come: its thread was stopped before it could use it. What is
/// older was read from a clock that was set back in between, and what waits for the time begins anew.
pub(crate) const SET_BACK_SHORT: Duration = Duration::from_secs(1);

/// Whether the clock was set back after it said `before`.
#[inline]
pub(crate) fn is_set_back_short(now: Instant, before: Instant) -> bool {
    now + SET_BACK_SHORT < before
}
