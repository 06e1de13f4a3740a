//! Rejections, and a counter of them that costs the rejected calls little.

use std::sync::OnceLock;

use super::state::Refusal;
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::instant::{Instant, nanos};
use crate::striped::StripedCounter;

impl Base {
    /// Makes a rejection for `reason`, unless there will never be that many tokens.
    #[inline(always)]
    pub(super) fn rejection(&self, now: Instant, refusal: Refusal, reason: Reason) -> Rejected {
        match refusal {
            Refusal::Never => Rejected::new(self.name, Reason::CostExceedsLimit),
            Refusal::Until(Instant::FAR_FUTURE) => Rejected::new(self.name, reason),
            Refusal::Until(at) => {
                let wait = at.as_nanos().saturating_sub(now.as_nanos());
                Rejected::new(self.name, reason).with_retry_nanos(wait)
            }
        }
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
pub(super) struct Rejections(OnceLock<StripedCounter>);

impl Rejections {
    #[inline]
    pub(super) fn count(&self) {
        match self.0.get() {
            Some(counter) => counter.increment(),
            None => self.first(),
        }
    }

    #[cold]
    fn first(&self) {
        self.0.get_or_init(StripedCounter::new).increment();
    }

    pub(super) fn total(&self) -> u64 {
        self.0.get().map_or(0, StripedCounter::sum)
    }
}
