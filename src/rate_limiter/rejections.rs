//! Rejections, and their counter.

use std::sync::OnceLock;

use super::state::Unavailable;
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::instant::{Instant, nanos};
use crate::striped::StripedCounter;

impl Base {
    /// Makes a rejection for `reason`, or for a cost that exceeds the limit.
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

    /// Returns the same rejection with another reason.
    pub(super) fn with_reason(&self, rejected: Rejected, reason: Reason) -> Rejected {
        let changed = Rejected::new(self.name, reason);
        match rejected.retry_after() {
            Some(wait) => changed.with_retry_nanos(nanos(wait)),
            None => changed,
        }
    }
}

/// Counts rejections in one counter per thread. The memory is allocated with the first rejection.
#[derive(Debug, Default)]
pub(super) struct Rejections(OnceLock<StripedCounter>);

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
        self.0.get_or_init(StripedCounter::new).increment();
    }

    pub(super) fn total(&self) -> u64 {
        self.0.get().map_or(0, StripedCounter::sum)
    }
}
