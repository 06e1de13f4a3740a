//! What travels outwards with a result: what it says about the dependency and about trying again.

use crate::clock::{ClockHandle, ClockId};
use crate::error::{Error, Rejected, TimedOut};
use crate::instant::Instant;
use crate::verdict::Verdict;

/// The result of an attempt on its way out, with its verdict.
///
/// Policies look at the verdict, not at the error, so one classifier inside speaks for all of them.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<T, E> {
    /// What the caller gets.
    pub result: Result<T, Error<E>>,
    /// What it means to the policies around.
    pub verdict: Verdict,
    finished: Finished,
}

/// When the attempt ended, if somebody has read that clock already.
#[derive(Clone, Copy, Debug)]
struct Finished {
    clock: ClockId,
    at: Instant,
}

impl<T, E> Outcome<T, E> {
    /// An outcome with a verdict of its own.
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

    /// The outcome of an operation without a classifier: `Ok` is a success, `Err` is transient.
    #[inline(always)]
    pub fn of(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::new(Ok(value), Verdict::success()),
            Err(error) => Self::new(Err(Error::Operation(error)), Verdict::transient()),
        }
    }

    /// The same outcome, for the way out of a layer.
    ///
    /// Good results go field by field: as one value they would be copied with the room for an error,
    /// in wide pieces over fields that were just written, and that stalls for longer than a layer
    /// takes.
    #[inline(always)]
    pub(crate) fn handed_on(self) -> Self {
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

    /// A refusal, with the verdict that belongs to its reason.
    pub const fn rejected(rejected: Rejected) -> Self {
        let verdict = Verdict::of_rejected(&rejected);
        Self::new(Err(Error::Rejected(rejected)), verdict)
    }

    /// A timeout: unhealthy, and worth another attempt where that is safe, unless it was a deadline from
    /// outside.
    pub const fn timed_out(timed_out: TimedOut) -> Self {
        let verdict = Verdict::of_timed_out(&timed_out);
        Self::new(Err(Error::TimedOut(timed_out)), verdict)
    }

    /// When the attempt ended, on `clock`: read at most once for all layers on that clock.
    ///
    /// A layer that waits before it passes the outcome on must not pass on this reading: it makes a
    /// new outcome.
    #[inline(always)]
    pub fn finished(&mut self, clock: &ClockHandle) -> Instant {
        let id = clock.id();
        if self.finished.clock != id {
            self.finished = Finished {
                clock: id,
                at: clock.now(),
            };
        }
        self.finished.at
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
