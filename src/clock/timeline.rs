//! A monotonic time, derived from readings that may go back.

use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering, fence};

/// Tolerance for late readings: only readings further behind the newest one are backward jumps.
pub(super) const TOLERANCE: u64 = 1_000_000_000;

/// Translates between the readings of a clock and a monotonic time.
///
/// The time is the reading plus `shift`. A backward jump increases the shift, so that time continues from its newest
/// value. The shift never decreases, so if it has the same value, no thread has changed it.
#[derive(Debug)]
pub(super) struct Timeline {
    shift: AtomicU64,
    /// The newest time that was returned.
    newest: AtomicU64,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            shift: AtomicU64::new(0),
            newest: AtomicU64::new(0),
        }
    }

    /// Reads the clock with `read`. Returns the time, and whether this reading has changed the shift.
    ///
    /// Lock-free; retries only if the shift changes meanwhile.
    #[inline]
    pub(super) fn now(&self, read: impl Fn() -> Instant) -> (Instant, bool) {
        loop {
            let shift = self.shift.load(Ordering::Acquire);
            // Loaded before the clock is read: a smaller reading is then not merely late, however long the thread was
            // preempted.
            let newest = self.newest.load(Ordering::Acquire);
            let reading = read().as_nanos();
            // A reading from before a jump with a shift from after it would be a leap forward.
            fence(Ordering::Acquire);
            if self.shift.load(Ordering::Relaxed) != shift {
                continue;
            }
            let time = reading.saturating_add(shift);
            if time > newest {
                let newest = self.newest.fetch_max(time, Ordering::AcqRel);
                return (Instant::from_nanos(time.max(newest)), false);
            }
            if newest - time <= TOLERANCE {
                return (Instant::from_nanos(newest), false);
            }
            if self.change_shift(shift, newest - reading) {
                return (Instant::from_nanos(newest), true);
            }
        }
    }

    /// Changes the shift. Fails if another thread, which saw the same jump, was first.
    #[cold]
    fn change_shift(&self, from: u64, to: u64) -> bool {
        self.shift
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    pub(super) fn shift(&self) -> u64 {
        self.shift.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Forward(u64),
        Back(u64),
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        let nanos = || prop_oneof![0..10_u64, 0..2 * TOLERANCE, 0..100 * TOLERANCE];
        prop_oneof![
            nanos().prop_map(Step::Forward),
            nanos().prop_map(Step::Back),
            Just(Step::Read)
        ]
    }

    #[cfg_attr(backstop_loom, ignore = "loom's atomics need a model")]
    #[test]
    fn time_follows_the_clock_and_never_goes_back() {
        proptest!(|(steps in prop::collection::vec(step(), 0..60))| {
            let timeline = Timeline::new();
            let mut clock = 1_000 * TOLERANCE;
            // The model: the latest reading and its time.
            let (mut then, mut time) = (0, 0);
            for step in steps {
                match step {
                    Step::Forward(nanos) => clock += nanos,
                    Step::Back(nanos) => clock -= nanos.min(clock),
                    Step::Read => {
                        if then > clock + TOLERANCE {
                            then = clock;
                        }
                        time += clock.saturating_sub(then);
                        then = then.max(clock);
                        let (now, _) = timeline.now(|| Instant::from_nanos(clock));
                        prop_assert_eq!(now.as_nanos(), time);
                    }
                }
            }
        });
    }

    #[cfg_attr(backstop_loom, ignore = "loom's atomics need a model")]
    #[test]
    fn a_late_reading_is_not_a_jump() {
        let timeline = Timeline::new();
        let early = Instant::from_nanos(5);
        let late = Instant::from_nanos(100 * TOLERANCE);
        // The thread is preempted after it has read the clock; another one reads it much later.
        let (now, has_jumped) = timeline.now(|| {
            timeline.now(|| late);
            early
        });
        assert_eq!((now, has_jumped), (late, false));
        assert_eq!(timeline.shift(), 0);
    }

    #[cfg_attr(backstop_loom, ignore = "loom's atomics need a model")]
    #[test]
    fn time_saturates() {
        let timeline = Timeline::new();
        let never = Instant::FAR_FUTURE;
        assert_eq!(timeline.now(|| never), (never, false));
        assert_eq!(timeline.now(|| Instant::ORIGIN), (never, true));
        assert_eq!(timeline.now(|| Instant::from_nanos(1)), (never, false));
    }
}
