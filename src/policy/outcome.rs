//! Outcomes: results that pass outward through the layers.

use std::fmt;

use crate::clock::{ClockHandle, ClockId};
use crate::error::{Error, Rejected, TimedOut};
use crate::instant::Instant;
use crate::verdict::Verdict;

/// The result of an attempt on its way out, with its verdict.
///
/// Policies decide by the verdict, not by the error, so one inner classifier serves all of them.
#[derive(Clone, Copy)]
pub struct Outcome<T, E> {
    /// The result that the caller gets.
    pub result: Result<T, Error<E>>,
    /// The verdict for the policies outside.
    pub verdict: Verdict,
    finished: Finished,
}

/// When the attempt ended, if a layer has read the clock since.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    clock: ClockId,
    at: Instant,
}

impl Finished {
    /// Returns when the attempt ended, on `clock`: the last reading, or a new one.
    #[inline(always)]
    pub(crate) fn on(&mut self, clock: &ClockHandle) -> Instant {
        let id = clock.id();
        if self.clock != id {
            *self = Self {
                clock: id,
                at: clock.now(),
            };
        }
        self.at
    }
}

impl<T, E> Outcome<T, E> {
    /// Returns an outcome with this verdict.
    #[inline(always)]
    pub const fn new(result: Result<T, Error<E>>, verdict: Verdict) -> Self {
        Self {
            result,
            verdict,
            finished: Finished {
                clock: ClockId::NONE,
                at: Instant::ORIGIN,
            },
        }
    }

    /// Returns the outcome of an operation without a classifier: `Ok` is a success, `Err` is transient.
    #[inline(always)]
    pub fn of(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::new(Ok(value), Verdict::success()),
            Err(error) => Self::new(Err(Error::Operation(error)), Verdict::transient()),
        }
    }

    /// Returns the outcome, moved field by field.
    ///
    /// Moved as one value, a success is copied together with the space for an error, by wide loads over narrow stores
    /// that are still in the store buffer. That stall takes longer than a layer.
    #[inline(always)]
    pub(crate) fn moved_by_field(self) -> Self {
        let Self {
            result,
            verdict,
            finished,
        } = self;
        match result {
            Ok(value) => Self {
                result: Ok(value),
                verdict,
                finished,
            },
            Err(error) => Self {
                result: Err(error),
                verdict,
                finished,
            },
        }
    }

    /// Returns the outcome of a rejection, with the verdict of its reason.
    pub const fn rejected(rejected: Rejected) -> Self {
        let verdict = Verdict::of_rejected(&rejected);
        Self::new(Err(Error::Rejected(rejected)), verdict)
    }

    /// Returns the outcome of a timeout: unhealthy, and retried where that is safe, unless an outer deadline has
    /// passed.
    pub const fn timed_out(timed_out: TimedOut) -> Self {
        let verdict = Verdict::of_timed_out(&timed_out);
        Self::new(Err(Error::TimedOut(timed_out)), verdict)
    }

    /// Returns whether a layer rejected the attempt, so that it was not executed.
    #[inline(always)]
    pub(crate) fn is_rejected(&self) -> bool {
        self.result.as_ref().is_err_and(Error::is_rejected)
    }

    /// Returns when the attempt ended, on `clock`, which is read at most once for all layers on it.
    ///
    /// A layer that waits before it passes the outcome on creates a new outcome, because this reading is from before
    /// the wait.
    #[inline(always)]
    pub fn finished(&mut self, clock: &ClockHandle) -> Instant {
        self.finished.on(clock)
    }

    /// Passes the verdict to a layer, which may read the clock. The result does not pass through the layer, because
    /// each return path would move it through memory.
    #[inline(always)]
    pub(crate) fn shown_to(self, layer: impl FnOnce(Verdict, Finished) -> Finished) -> Self {
        let Self {
            result,
            verdict,
            finished,
        } = self;
        let finished = layer(verdict, finished);
        Self {
            result,
            verdict,
            finished,
        }
    }
}

impl<T: fmt::Debug, E: fmt::Debug> fmt::Debug for Outcome<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("result", &self.result)
            .field("verdict", &self.verdict)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stay_small() {
        assert!(
            size_of::<Outcome<u64, u64>>() <= 80,
            "{}",
            size_of::<Outcome<u64, u64>>()
        );
    }
}
