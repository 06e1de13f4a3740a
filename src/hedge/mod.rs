#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/hedge.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Hedges launch a second copy of a slow call, and use the faster answer."
)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::inner::{Delay, Inner};
use crate::keyed::{Evictable, is_unshared};

mod config;
mod copies;
mod inner;
mod live;
mod policy;
mod snapshot;
mod state;

pub use self::config::HedgeBuilder;
pub use self::snapshot::Snapshot;
#[doc(no_inline)]
pub use crate::event::{HedgeCause, HedgeEvent, NotSent};

/// Launches further copies of a call that is slow or fails, and takes the first good answer. See the
/// [module page](self).
///
/// Cheap to clone: clones share latencies, budgets, and counts.
#[derive(Clone)]
pub struct Hedge {
    inner: Arc<Inner>,
}

impl Hedge {
    fn of(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the name in events and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns how many further copies a call has at most.
    pub fn max_hedges(&self) -> u32 {
        self.inner.max_hedges()
    }

    /// Returns the delay and the counts. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

/// A hedge is evictable if its delay depends on no known latency. Budgets are usually shared, so they do not matter.
impl Evictable for Hedge {
    fn evictable_in(&self) -> Option<Duration> {
        if !is_unshared(&self.inner) {
            return None;
        }
        let Delay::Latency { latency, .. } = &self.inner.delay else {
            return Some(Duration::ZERO);
        };
        let now = self.inner.clock.now();
        Some(latency.forgotten_at(now).saturating_duration_since(now))
    }
}

impl fmt::Debug for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hedge").field(&self.snapshot()).finish()
    }
}
