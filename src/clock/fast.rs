//! The CPU's counter, with tokio timers that outlive the calls they serve.

use super::sleep::fast::Timer;
use super::{Clock, Sleep, counter};
use crate::instant::Instant;

/// The CPU's time stamp counter through [`quanta`], and tokio timers that stay registered.
///
/// A reading takes 10 ns instead of 23 ns. Timers are the most expensive part of a call that waits, and timeouts
/// rarely fire. So a timer returns to a small pool of its thread instead of being cancelled, and the next call reuses
/// it.
///
/// It is real time by definition: it does not obey tokio's paused time, and a parked timer would
/// let a paused clock jump. Timers fire with tokio's precision of 1 ms.
///
/// The counter is used where the counters of all cores are known to agree: on 64-bit ARM, and on x86
/// under Linux while the kernel itself uses it (`current_clocksource` is `tsc`). Elsewhere the time
/// comes from the system's clock, and only the timers are faster.
///
/// While the machine sleeps, the counter continues, stops, or restarts, depending on the hardware.
/// If it restarts, time does not advance until the counter has reached its earlier value. Programs for machines
/// that sleep should use [`TokioClock`](super::TokioClock).
///
/// # Panics
///
/// As with [`TokioClock`](super::TokioClock), a sleep needs a tokio runtime with time enabled.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FastClock;

impl FastClock {
    /// Returns the clock. The first call in a process calibrates the counter, for up to 200 ms.
    pub fn new() -> Self {
        counter::init();
        Self
    }
}

impl Clock for FastClock {
    #[inline]
    fn now(&self) -> Instant {
        counter::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        match Timer::new(deadline) {
            Some(timer) => Sleep::fast(timer),
            None => Sleep::blocking_from(self.now(), deadline),
        }
    }
}
