#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/timeout.md"))]
#![cfg_attr(not(feature = "tokio"), doc = "Timeouts: no call waits forever.")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::blocking;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::instant::nanos;
use crate::keyed::stateless;
use crate::policy::Context;

mod config;
mod policy;

pub use self::config::TimeoutBuilder;

/// Cuts an operation off after a time limit. See the [module page](self).
///
/// Cheap to clone. It has no state, so clones are equivalent.
#[derive(Clone, Debug)]
pub struct Timeout {
    limit: Limit,
    name: &'static str,
    clock: ClockHandle,
}

stateless!(Timeout);

#[derive(Clone)]
enum Limit {
    Fixed {
        limit: Duration,
        /// The limit in nanoseconds, so that no call has to convert it.
        nanos: u64,
    },
    PerCall(Arc<dyn Fn(&Context) -> Duration + Send + Sync>),
}

impl Timeout {
    pub(super) const NAME: &'static str = "timeout";

    /// Returns a timeout of `limit`, on tokio's clock.
    ///
    /// Zero admits only an operation that is ready at once. [`Duration::MAX`] never fires.
    #[cfg(feature = "tokio")]
    pub fn after(limit: Duration) -> Self {
        Self {
            limit: Limit::fixed(limit),
            name: Self::NAME,
            clock: crate::clock::TokioClock.into(),
        }
    }

    /// Returns a timeout on tokio's clock whose limit is computed for each call, or for each attempt inside a retry.
    ///
    /// # Example
    ///
    /// A limit that is longer with each attempt:
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::Timeout;
    ///
    /// let timeout = Timeout::after_with(|cx| cx.attempt() * Duration::from_secs(1));
    /// ```
    #[cfg(feature = "tokio")]
    pub fn after_with(limit: impl Fn(&Context) -> Duration + Send + Sync + 'static) -> Self {
        Self {
            limit: Limit::per_call(limit),
            name: Self::NAME,
            clock: crate::clock::TokioClock.into(),
        }
    }

    /// Returns the name in errors and events.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the limit, if it is the same for every call.
    pub const fn limit(&self) -> Option<Duration> {
        match self.limit {
            Limit::Fixed { limit, .. } => Some(limit),
            Limit::PerCall(_) => None,
        }
    }
}

impl Limit {
    const fn fixed(limit: Duration) -> Self {
        Self::Fixed {
            limit,
            nanos: nanos(limit),
        }
    }

    fn per_call(limit: impl Fn(&Context) -> Duration + Send + Sync + 'static) -> Self {
        Self::PerCall(Arc::new(move |cx: &Context| {
            blocking::outside(|| limit(cx))
        }))
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { limit, .. } => DebugLimit(limit).fmt(f),
            Self::PerCall(_) => f.write_str("PerCall"),
        }
    }
}
