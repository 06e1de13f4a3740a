//! What a limiter has to do with the world around it.

use std::sync::Arc;
use std::time::Duration;

use super::state::Refusal;
use crate::clock::ClockHandle;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::{Instant, nanos};

/// A limiter's clock and its name, how long it lets calls wait, and who hears of refusals.
pub(super) struct Outside {
    pub(super) clock: ClockHandle,
    pub(super) max_wait: Duration,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) name: &'static str,
}

impl Outside {
    pub(super) fn new(
        clock: ClockHandle,
        max_wait: Duration,
        observer: Option<Arc<dyn Observer>>,
        name: &'static str,
    ) -> Self {
        Self {
            clock,
            max_wait,
            observer,
            name,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A refusal, for `reason` unless there will never be that many tokens.
    #[inline(always)]
    pub(super) fn rejected(&self, now: Instant, refusal: Refusal, reason: Reason) -> Rejected {
        match refusal {
            Refusal::Never => Rejected::new(self.name, Reason::CostExceedsLimit),
            Refusal::Until(Instant::FAR_FUTURE) => Rejected::new(self.name, reason),
            Refusal::Until(at) => {
                let wait = at.as_nanos().saturating_sub(now.as_nanos());
                Rejected::new(self.name, reason).with_retry_nanos(wait)
            }
        }
    }

    /// The same rejection for another reason.
    pub(super) fn with_reason(&self, rejected: Rejected, reason: Reason) -> Rejected {
        let changed = Rejected::new(self.name, reason);
        match rejected.retry_after() {
            Some(wait) => changed.with_retry_nanos(nanos(wait)),
            None => changed,
        }
    }

    /// Tells the call's observer, if it has one, and the limiter's own.
    pub(super) fn tell(&self, event: &Event, observer: Option<&dyn Observer>) {
        for observer in [observer, self.observer.as_deref()].into_iter().flatten() {
            observer.on_event(event);
        }
    }
}
