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
pub use self::fairness::UserFairness;
pub use self::threshold::SharedCut;

/// Rejects the least important calls while the server is overloaded. See the [module page](self).
///
/// Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct LoadShedder {
    inner: Arc<Inner>,
}

impl LoadShedder {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Records how long a call waited before it reached the shedder. A shedder with a
    /// [`signal`](LoadShedderBuilder::signal) ignores it.
    pub fn observe_delay(&self, delay: Duration) {
        self.inner.observe_delay(delay, self.inner.base.clock.now());
    }

    /// Admits a call of this priority, or rejects it.
    ///
    /// # Errors
    ///
    /// [`Reason::Shed`](crate::Reason::Shed).
    pub fn admit(&self, priority: Priority) -> Result<(), Rejected> {
        self.inner
            .admit(priority, self.inner.base.clock.now(), None)
    }

    /// Returns counts and gauges. Reading changes nothing.
    pub fn snapshot(&self) -> ShedSnapshot {
        let inner = &*self.inner;
        ShedSnapshot {
            name: inner.base.name,
            shed_rate: inner.shed_rate(),
            cut: inner.participant.threshold().level,
            load: inner.load(),
            shed: inner.shed.load(Ordering::Relaxed),
            would_shed: inner.would_shed.load(Ordering::Relaxed),
        }
    }

    /// Changes the target and the interval of the queue delay.
    ///
    /// # Errors
    ///
    /// If the shedder has a signal instead, or the values are invalid. Then nothing changes.
    pub fn set_queue_delay(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        match &self.inner.source {
            Source::QueueDelay(delays) => lock(delays).codel.retune(target, interval),
            Source::Signal { .. } => Err(ConfigError::new(
                self.inner.base.name,
                "queue_delay",
                "is not used: there is a signal",
            )),
        }
    }
}

/// The state of a [`LoadShedder`] at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShedSnapshot {
    /// The name.
    pub name: &'static str,
    /// The share of calls that this shedder wants to shed.
    pub shed_rate: f64,
    /// Calls below this level (see [`Priority::as_u16`]) are shed; some of those on it may be.
    pub cut: u16,
    /// The queue delay as a share of what is tolerated, 0 to 1; 0 with a signal.
    pub load: f64,
    /// Number of calls that were shed.
    pub shed: u64,
    /// Number of calls that shadow mode admitted and that would have been shed.
    pub would_shed: u64,
}

impl fmt::Debug for LoadShedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
