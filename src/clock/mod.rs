//! Clocks. One object both reads the time and sleeps, so that the two never disagree.
//!
//! A handle is built with a clock and keeps it. The pure state machines never see one: they take an
//! [`Instant`] as an argument. The documentation for users is on [`Clock`].

use std::fmt::Debug;
use std::sync::Arc;

use crate::instant::Instant;

mod alarm;
pub(crate) mod blocking;
#[cfg(feature = "fast-clock")]
mod counter;
#[cfg(feature = "fast-clock")]
mod fast;
mod handle;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod manual;
mod monotonic;
#[cfg(test)]
mod reentrant;
#[cfg(feature = "tokio")]
mod runtimes;
mod sleep;
mod system;
mod timeline;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;
mod unpark;

pub use self::blocking::BlockingClock;
#[cfg(feature = "fast-clock")]
pub use self::fast::FastClock;
pub use self::handle::ClockHandle;
pub use self::manual::ManualClock;
pub use self::sleep::Sleep;
#[cfg(feature = "tokio")]
pub use self::tokio::TokioClock;

pub(crate) use self::alarm::Alarm;
pub(crate) use self::handle::{ClockId, arm};

/// A source of time: reads it and waits for it.
///
/// One object does both, so that a test that advances the time also fires the sleeps. A handle is built
/// with a clock and keeps it.
///
/// | clock | time | while the machine sleeps | sleeps | for |
/// |---|---|---|---|---|
/// | `TokioClock` (default) | tokio's, so it obeys `start_paused` | the system's: stands still on Linux and macOS, goes on on Windows | a tokio timer | async programs and their tests |
/// | `FastClock` (feature `fast-clock`) | the CPU's counter, about 10 ns a read | depends on the hardware | tokio timers that stay registered | the hottest paths |
/// | [`BlockingClock`] | the system's | as `TokioClock` | parks the thread | programs without a runtime |
/// | [`ManualClock`] | moved manually | stands still | wakes in deadline order | deterministic tests |
/// | your own | yours | yours | yours | other runtimes, simulators |
///
/// # Clocks that go backwards
///
/// A clock of your own may go backwards, but the time that policies see never does. A [`ClockHandle`] follows its clock
/// with these rules:
///
/// * A reading that is up to a second behind the newest one counts as the newest. This absorbs races between threads,
///   and clocks that differ a little from core to core.
/// * A reading that is further behind is a backward jump. Time continues from where it was, at the rate of
///   the clock: nothing bursts, and nothing waits for the clock to catch up. Sleeps that were started
///   before are started again for the time that is left, once the clock is read.
/// * Forward jumps count as time that has passed. A clock that goes back and forth by more than a second
///   runs ahead.
///
/// This state belongs to the clock, not to the handle, and lasts as long as the clock has a handle. Clones of a handle,
/// and handles made from clones of one `Arc`, are one clock: layers that have it share its readings and deadlines. Two
/// handles made from two values are two clocks, even if the values are clones of each other.
///
/// # Example
///
/// A clock on top of another one, which a test can move backwards:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use backstop::{Clock, Instant, ManualClock, Sleep};
///
/// #[derive(Debug)]
/// struct Skewed {
///     inner: ManualClock,
///     back_nanos: AtomicU64,
/// }
///
/// impl Clock for Skewed {
///     fn now(&self) -> Instant {
///         let back = self.back_nanos.load(Ordering::Relaxed);
///         Instant::from_nanos(self.inner.now().as_nanos().saturating_sub(back))
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> Sleep {
///         let wait = deadline.saturating_duration_since(self.now());
///         self.inner.sleep_until(self.inner.now() + wait)
///     }
/// }
/// ```
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the time on this clock.
    fn now(&self) -> Instant;

    /// Returns a future that is ready once this clock reads `deadline` or later, and that gives up its
    /// timer when it is dropped.
    ///
    /// [`Instant::FAR_FUTURE`] never comes.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// Returns the clock in an `Arc`. An `Arc` stays as it is, because its address identifies the clock.
    #[doc(hidden)]
    fn into_arc(self) -> Arc<dyn Clock>
    where
        Self: Sized,
    {
        Arc::new(self)
    }
}

/// Clones of one `Arc` are one clock: layers that have it share its readings.
impl<C: Clock> Clock for Arc<C> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        (**self).sleep_until(deadline)
    }

    fn into_arc(self) -> Arc<dyn Clock> {
        self
    }
}

/// Clones of one `Arc` are one clock: layers that have it share its readings.
impl Clock for Arc<dyn Clock> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        (**self).sleep_until(deadline)
    }

    fn into_arc(self) -> Arc<dyn Clock> {
        self
    }
}
