//! Client-side throttles: a dependency that rejects most calls gets fewer of them.
#![doc = include_str!("../../docs/patterns/throttle.md")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::debug::DebugLimit;
use crate::error::Rejected;
use crate::keyed::{Evictable, is_unshared};
use crate::sync::Ordering;
use crate::verdict::{Health, Verdict};

mod admission;
mod config;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod permit;
mod policy;
mod snapshot;
mod state;
#[cfg(all(test, not(backstop_loom)))]
mod tests;

pub use self::config::ThrottleBuilder;
pub use self::permit::Permit;
pub use self::snapshot::{Load, Snapshot};

use self::inner::Inner;

/// Rejects a share of the calls to a dependency that rejects or fails many of them. See the [module page](self).
///
/// Cheap to clone; clones share one window.
#[derive(Clone)]
pub struct Throttle {
    inner: Arc<Inner>,
}

impl Throttle {
    /// Returns the name in errors, events, and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Admits one call, for code that is not a closure. The result is recorded through the permit.
    ///
    /// # Errors
    ///
    /// [`Reason::Throttled`](crate::Reason::Throttled). There is no `retry_after`, because the next call may be
    /// admitted.
    ///
    /// # Examples
    ///
    /// ```
    /// use backstop::{ManualClock, Throttle};
    ///
    /// let throttle = Throttle::builder().clock(ManualClock::new()).build()?;
    /// let permit = throttle.try_acquire().expect("nothing has failed yet");
    /// match std::fs::read_to_string("Cargo.toml") {
    ///     Ok(_) => permit.success(),
    ///     Err(_) => permit.failure(),
    /// }
    /// assert_eq!(throttle.snapshot().accepts, 1);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        let now = self.inner.base.clock.now();
        self.inner.admit(now, crate::life::Life::of_handle(), None)
    }

    /// Records a call that was made without a permit: healthy is an accept, unhealthy a failure, and neutral is not
    /// counted.
    pub fn record(&self, verdict: Verdict) {
        let accepted = match verdict.health() {
            Health::Healthy => true,
            Health::Unhealthy => false,
            Health::Neutral => return,
        };
        let inner = &*self.inner;
        inner.state.record(accepted, inner.base.clock.now());
    }

    /// Resets all counts. Calls in flight may still be counted when they end.
    pub fn reset(&self) {
        self.inner.state.reset();
    }

    /// Returns a snapshot of the throttle. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let totals = inner.state.totals(inner.base.clock.now());
        let rejections = inner.rejections.load(Ordering::Relaxed);
        let shadow = inner.base.shadow;
        Snapshot {
            name: inner.base.name,
            calls: totals.requests,
            accepts: totals.accepts,
            failures: totals.failures,
            in_flight: totals.in_flight,
            calls_per_second: totals.per_second,
            rejection_probability: inner.state.rule.probability(totals),
            max_rejection: inner.state.rule.max_rejection,
            rejected: if shadow { 0 } else { rejections },
            would_reject: if shadow { rejections } else { 0 },
        }
    }
}

/// A throttle is evictable if no call in the window failed or is in flight, and no other handle exists.
impl Evictable for Throttle {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        if !is_unshared(&self.inner) {
            return None;
        }
        let totals = inner.state.totals(inner.base.clock.now());
        match (totals.in_flight, totals.failures) {
            (0, 0) => Some(Duration::ZERO),
            // An upper bound: the failures may leave the window earlier.
            (0, _) => Some(inner.state.window()),
            _ => None,
        }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.name())
            .field("rule", &self.inner.state.rule)
            .field("window", &DebugLimit(&self.inner.state.window()))
            .finish_non_exhaustive()
    }
}
