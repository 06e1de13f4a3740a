//! Timeouts: no call waits forever.
//!
//! # What it protects
//!
//! The caller, and everything the caller holds while it waits: its task, its memory, its place in
//! the bulkhead. A dependency that hangs costs one limit instead of for ever.
//!
//! ```text
//!   call ──►│ operation runs .................. ready ──► its result
//!           │
//!           └── limit, or the deadline from outside if that is earlier ──► Error::TimedOut
//! ```
//!
//! # When not to use it
//!
//! * Around work that must not stop half-way: the operation's future is dropped, and what it had
//!   sent may still take effect. Make it safe to repeat, or give it no timeout.
//! * Around CPU-bound work: a future that does not yield cannot be cut off.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Policy, Timeout};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let timeout = Timeout::after(Duration::from_secs(2));
//! let result = timeout.call(std::future::pending::<Result<(), std::io::Error>>).await;
//! assert_eq!(result.unwrap_err().to_string(), "timed out by timeout after 2s");
//! # }
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `after` | none, it must be given; 10 s an attempt and 30 s in total are good first guesses |
//! | `name` | `timeout` |
//! | `clock` | tokio's |
//!
//! # With its neighbours
//!
//! * **Inside a retry** it limits one attempt, **outside** it limits the whole call. Use both.
//! * Timeouts nest: the earliest deadline wins. The deadline travels inwards, so an inner layer knows
//!   what is left and refuses what can no longer be done. Calls made by the operation through other
//!   policies inherit it too ([`deadline`](crate::deadline)).
//! * A breaker outside counts a timeout as a failure, a retry repeats it when the call is idempotent. A cut
//!   by a deadline from further out is neither: it says nothing about the dependency, and no time is left.
//!   The error names the policy whose limit it was.
//! * The operation is dropped before anything is reported, recorded or released.
//!
//! # How it works
//!
//! The operation is polled first and the timer is armed only when it is pending, so an operation
//! that is ready at once costs no timer. Limits that overflow the clock mean "never".

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{ClockHandle, blocking};
use crate::instant::{DebugLimit, nanos};
use crate::keyed::stateless;
use crate::policy::Context;

mod config;
mod policy;

pub use self::config::TimeoutBuilder;

/// Cuts an operation off when its time is up. See the [module page](self).
///
/// Cheap to clone. It has no state: clones and originals are the same.
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
        /// The same in nanoseconds, so that no call has to convert it.
        nanos: u64,
    },
    PerCall(Arc<dyn Fn(&Context) -> Duration + Send + Sync>),
}

impl Timeout {
    pub(super) const NAME: &'static str = "timeout";

    /// A timeout of `limit`, on tokio's clock.
    ///
    /// Zero lets an operation through only if it is ready at once. [`Duration::MAX`] never fires.
    #[cfg(feature = "tokio")]
    pub fn after(limit: Duration) -> Self {
        Self {
            limit: Limit::fixed(limit),
            name: Self::NAME,
            clock: crate::clock::TokioClock.into(),
        }
    }

    /// A timeout whose limit is computed for each call, or for each attempt when it is inside a
    /// retry. On tokio's clock.
    ///
    /// # Example
    ///
    /// More patience with each attempt:
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

    /// The name in errors and events.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The limit, when it is the same for every call.
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
}

impl Limit {
    fn per_call(limit: impl Fn(&Context) -> Duration + Send + Sync + 'static) -> Self {
        Self::PerCall(Arc::new(move |cx: &Context| {
            blocking::outside(|| limit(cx))
        }))
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { limit, .. } => DebugLimit(*limit).fmt(f),
            Self::PerCall(_) => f.write_str("PerCall"),
        }
    }
}
