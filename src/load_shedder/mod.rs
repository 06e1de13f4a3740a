#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/load-shedding.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Load shedders reject the least important calls under overload."
)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::inner::{Inner, Source};
use crate::error::{ConfigError, Rejected};
use crate::priority::Priority;
use crate::sync::{Ordering, lock};

mod config;
mod fairness;
mod inner;
mod policy;
mod state;
mod threshold;

pub use self::config::LoadShedderBuilder;
pub use self::fairness::{UserFairness, UserFairnessBuilder};
pub use self::threshold::SharedThreshold;

/// Rejects the least important calls while the server is overloaded. See the [module page](self).
///
/// Cheap to clone: clones share all state.
#[derive(Clone)]
pub struct LoadShedder {
    inner: Arc<Inner>,
}

impl LoadShedder {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Records how long a call waited before it reached the shedder. Ignored by a shedder with a
    /// [`signal`](LoadShedderBuilder::signal).
    pub fn observe_delay(&self, delay: Duration) {
        self.inner.observe_delay(delay, self.inner.base.clock.now());
    }

    /// Admits a call of this priority, or rejects it.
    ///
    /// # Errors
    ///
    /// [`Reason::Shed`](crate::Reason::Shed) when the priority is below the threshold. For a priority at the
    /// threshold, the decision is random.
    pub fn try_acquire(&self, priority: Priority) -> Result<(), Rejected> {
        self.inner
            .try_acquire(priority, self.inner.base.clock.now(), None)
    }

    /// Returns a snapshot of counters and gauges. Reading changes no state.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        Snapshot {
            name: inner.base.name,
            shed_rate: inner.shed_rate(),
            threshold: inner.participant.threshold().level,
            load: inner.load(),
            rejected: inner.rejected.load(Ordering::Relaxed),
            would_reject: inner.would_reject.load(Ordering::Relaxed),
        }
    }

    /// Changes the target and the interval of the queue delay. The share of shed calls is kept.
    ///
    /// # Errors
    ///
    /// When the shedder has a signal instead, or the target is zero or not below the interval. Then nothing
    /// changes.
    pub fn set_codel(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        match &self.inner.source {
            Source::QueueDelay(delays) => lock(delays).codel.retune(target, interval),
            Source::Signal { .. } => Err(ConfigError::new(
                self.inner.base.name,
                "codel",
                "contradicts signal",
            )),
        }
    }
}

/// The state of a [`LoadShedder`] at one moment. Made by [`LoadShedder::snapshot`].
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The shedder's name.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The share of its calls that this shedder wants to shed, from 0 to 1.
    pub shed_rate: f64,
    /// Calls of a lower priority (see [`Priority::as_u16`]) are shed, and some of those with this one.
    pub threshold: u16,
    /// The queue delay as a share of what is tolerated, or the signal as of the last update, from 0 to 1.
    pub load: f64,
    /// Number of calls shed.
    pub rejected: u64,
    /// Number of calls that shadow mode admitted although they would have been shed.
    pub would_reject: u64,
}

impl fmt::Debug for LoadShedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
