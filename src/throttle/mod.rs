//! Client-side throttles: a dependency that refuses most calls gets fewer of them.
//!
//! # What it protects
//!
//! A dependency that is overloaded, from the cost of saying no; and the caller, from waiting for
//! that no. Each client looks at its own calls only: when too few of them end well, it drops a share
//! of the next ones itself, the more the fewer end well.
//!
//! ```text
//!                     requests − accepts / threshold
//!    probability  =  ───────────────────────────────   of the last 60 s, at most 0.9
//!                             requests + 1
//!
//!   call ──► draw ──┬── pass ──► operation ──► ended well: accepts + 1
//!      requests + 1 │
//!                   └── below the probability ──► Reason::Throttled
//! ```
//!
//! # When not to use it
//!
//! * Against a dependency that is down rather than overloaded: a
//!   [`CircuitBreaker`](crate::CircuitBreaker) sends a few trial calls instead of a tenth of all.
//! * For few calls: below ten a minute it never acts.
//! * Where many errors are normal. Tell a [`Classify`](crate::Classify) inside which of them are the
//!   caller's fault.
//!
//! # Example
//!
//! ```
//! use backstop::{ManualClock, Policy, Throttle};
//!
//! let clock = ManualClock::new();
//! let throttle = Throttle::builder().seed(7).clock(clock.clone()).build()?;
//!
//! let mut sent = 0;
//! for _ in 0..1000 {
//!     match clock.block_on(throttle.call(|| async { Err::<(), _>("overloaded") })) {
//!         Err(error) if error.is_rejected() => {} // dropped here, at no cost to the dependency
//!         _ => sent += 1,
//!     }
//! }
//! assert!((100..200).contains(&sent), "{sent}");
//! assert_eq!(throttle.snapshot().rejection_probability, 0.9);
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `success_threshold` | 0.9 |
//! | `window` | 60 s in 20 slices |
//! | `min_requests` | 10 |
//! | `max_rejection` | 0.9 |
//! | `probe_every` | 1 s |
//! | `grace` | 1 s |
//! | `cancelled_as`, `panicked_as` | neutral, unhealthy |
//! | `name` | `throttle` |
//! | `clock` | tokio's |
//!
//! All of them: [`ThrottleBuilder`].
//!
//! # What counts
//!
//! A call is a request from its start, in the slice of time in which it starts; its end changes what
//! it is there. A healthy verdict makes it an accept, an unhealthy one a failure. A neutral one takes
//! it back: it was cancelled, or refused by an inner layer, and says nothing. A panic is a failure.
//!
//! # With its neighbours
//!
//! * **Inside a retry**, so that every attempt is counted and may be dropped. A refusal tells the
//!   retry that the call was not executed.
//! * **A timeout inside** makes hanging calls failures. One outside cancels them, which says nothing.
//! * **A circuit breaker outside** ignores the throttle's refusals.
//!
//! The longer page: [`guide::throttle`](crate::guide::throttle).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Rejected;
use crate::keyed::{Evictable, is_unshared};
use crate::sync::Ordering;
use crate::verdict::{Health, Verdict};

mod admit;
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
pub use self::snapshot::{Load, ThrottleSnapshot};

use self::inner::Inner;

/// Drops a share of the calls to a dependency that refuses most of them. See the
/// [module page](self).
///
/// Cheap to clone; clones are one throttle.
#[derive(Clone)]
pub struct Throttle {
    inner: Arc<Inner>,
}

impl Throttle {
    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Asks to make one call, for code that is no closure.
    ///
    /// # Errors
    ///
    /// [`Reason::Throttled`](crate::Reason::Throttled), by chance. It does not say when to come back: every call has a chance.
    ///
    /// # Example
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
        self.inner
            .admit(now, crate::life::Life::of_a_handle(), None)
    }

    /// Counts a call that was made without asking: one healthy as an accept, one unhealthy as a
    /// failure, one neutral not at all.
    pub fn record(&self, verdict: Verdict) {
        let accepted = match verdict.health() {
            Health::Healthy => true,
            Health::Unhealthy => false,
            Health::Neutral => return,
        };
        let inner = &*self.inner;
        inner.state.record(accepted, inner.base.clock.now());
    }

    /// Forgets all calls. Those in flight may be counted when they end, or not.
    pub fn reset(&self) {
        self.inner.state.reset();
    }

    /// What the throttle is like now. Changes nothing.
    pub fn snapshot(&self) -> ThrottleSnapshot {
        let inner = &*self.inner;
        let seen = inner.state.seen(inner.base.clock.now());
        ThrottleSnapshot {
            requests: seen.requests,
            accepts: seen.accepts,
            failures: seen.failures,
            pending: seen.pending,
            requests_per_second: seen.per_second,
            rejection_probability: inner.state.probability(seen),
            max_rejection: inner.state.max_rejection(),
            // Relaxed: a number for people.
            rejected: inner.rejected.load(Ordering::Relaxed),
        }
    }
}

/// Nothing has failed or is in flight, and nobody has a handle.
impl Evictable for Throttle {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        if !is_unshared(&self.inner) {
            return None;
        }
        let seen = inner.state.seen(inner.base.clock.now());
        match (seen.pending, seen.failures) {
            (0, 0) => Some(Duration::ZERO),
            // At the latest.
            (0, _) => Some(inner.state.window()),
            _ => None,
        }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.name())
            .field("state", &self.inner.state)
            .finish_non_exhaustive()
    }
}
