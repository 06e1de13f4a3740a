//! A time that never goes back, on clocks that may.

use std::sync::Mutex;
use std::time::Duration;

use crate::clock::ClockHandle;
use crate::instant::Instant;
use crate::sync::lock;

/// Makes up for the steps back of a clock.
///
/// Only for clocks of the user's own: the built-in ones never go back. A step back of more than
/// [`TOLERANCE`] is taken for the clock having been set: nothing is earned for it, and time goes on
/// from where it was, so the limits neither burst nor freeze. Less than that is what threads that
/// read a clock at the same time can be out of order by; time stands still for it.
#[derive(Debug)]
pub(super) struct Timeline(Mutex<Last>);

#[derive(Debug)]
struct Last {
    reading: Instant,
    /// By how much the clock has been set back so far.
    behind: Duration,
}

const TOLERANCE: Duration = Duration::from_millis(10);

impl Timeline {
    /// `None` for clocks that never go back.
    pub(super) fn of(clock: &ClockHandle) -> Option<Self> {
        clock.is_custom().then(|| {
            Self(Mutex::new(Last {
                reading: clock.now(),
                behind: Duration::ZERO,
            }))
        })
    }

    // Out of the way of the clocks that need none of this.
    #[inline(never)]
    pub(super) fn steady(&self, reading: Instant) -> Instant {
        let mut last = lock(&self.0);
        let back = last.reading.saturating_duration_since(reading);
        if back > TOLERANCE {
            last.behind += back;
            last.reading = reading;
        } else {
            last.reading = last.reading.max(reading);
        }
        last.reading + last.behind
    }
}
