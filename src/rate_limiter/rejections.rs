//! Rejections, and a counter of them that costs the rejected calls little.

use std::sync::OnceLock;

use super::state::Unavailable;
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::Panics;
use crate::instant::{Instant, nanos};
use crate::striped::Striped;

impl Base {
    /// Makes a rejection for `reason`, unless there will never be that many tokens.
    #[inline(always)]
    pub(super) fn rejection(
        &self,
        now: Instant,
        unavailable: Unavailable,
        reason: Reason,
    ) -> Rejected {
        match unavailable {
            Unavailable::Never => Rejected::new(self.name, Reason::CostExceedsLimit),
            Unavailable::Until(Instant::FAR_FUTURE) => Rejected::new(self.name, reason),
            Unavailable::Until(at) => {
                let wait = at.as_nanos().saturating_sub(now.as_nanos());
                Rejected::new(self.name, reason).with_retry_nanos(wait)
            }
        }
    }

    /// Runs `settle` at the current time, or at `known` if the clock panics; the panic goes on afterwards.
    ///
    /// For what has to be given back or charged in any case. `known` is a time that has passed, at which no
    /// waiter is served too early and no limit holds too much.
    pub(super) fn at_now_or(&self, known: Instant, settle: impl FnOnce(Instant)) {
        let (mut now, mut panics) = (known, Panics::default());
        panics.run(|| now = self.now());
        panics.run(|| settle(now));
        panics.resume();
    }

    /// Makes the same rejection for another reason.
    pub(super) fn with_reason(&self, rejected: Rejected, reason: Reason) -> Rejected {
        let changed = Rejected::new(self.name, reason);
        match rejected.retry_after() {
            Some(wait) => changed.with_retry_nanos(nanos(wait)),
            None => changed,
        }
    }
}

/// Counts rejections. Threads count apart from each other; the memory for that is allocated with the first
/// rejection.
#[derive(Debug, Default)]
pub(super) struct Rejections(OnceLock<Striped>);

impl Rejections {
    #[inline]
    pub(super) fn count(&self) {
        match self.0.get() {
            Some(counter) => counter.increment(),
            None => self.allocate(),
        }
    }

    #[cold]
    fn allocate(&self) {
        self.0.get_or_init(Striped::new).increment();
    }

    pub(super) fn total(&self) -> u64 {
        self.0.get().map_or(0, Striped::sum)
    }
}
