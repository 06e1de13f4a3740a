//! One clock for everything: what reads the time and what sleeps are the same object.
//!
//! A handle is built with a clock and keeps it. The pure state machines never see one: they take an
//! [`Instant`] as an argument. What users are told of clocks is on [`Clock`].

use std::fmt::Debug;
use std::sync::Arc;

use crate::instant::Instant;

pub(crate) mod blocking;
#[cfg(feature = "fast-clock")]
mod fast;
mod manual;
#[cfg(feature = "fast-clock")]
mod pool;
mod real;
mod sleep;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;

pub use self::blocking::BlockingClock;
#[cfg(feature = "fast-clock")]
pub use self::fast::FastClock;
pub use self::manual::ManualClock;
pub use self::sleep::Sleep;
#[cfg(feature = "tokio")]
pub use self::tokio::TokioClock;

pub(crate) use self::sleep::arm;

/// A source of time: reads it and waits for it.
///
/// Both come from one object, so that a test which moves the one moves the other. A handle is built
/// with a clock and keeps it.
///
/// | clock | time | sleeps | for |
/// |---|---|---|---|
/// | `TokioClock` (default) | tokio's, so it obeys `start_paused` | a tokio timer | async programs and their tests |
/// | `FastClock` (feature `fast-clock`) | the CPU's counter, about 10 ns a read | tokio timers that stay registered | the hottest paths |
/// | [`BlockingClock`] | the system's | parks the thread | programs without a runtime |
/// | [`ManualClock`] | moved by hand | wakes in deadline order | deterministic tests |
/// | your own | yours | yours | other runtimes, simulators |
///
/// A clock of your own may go backwards. No pattern panics, freezes or bursts then: all arithmetic on
/// [`Instant`] saturates, and what waits for a time that lies too far ahead begins anew.
///
/// Layers on one clock share its readings. Give all of them the same [`ClockHandle`], or clones of
/// one `Arc`, rather than one clock each.
///
/// # Example
///
/// A clock on top of another one; it lets a test set time back:
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
    /// The time on this clock.
    fn now(&self) -> Instant;

    /// A future that is ready once this clock reads `deadline` or later, and that gives up its
    /// timer when it is dropped.
    ///
    /// [`Instant::FAR_FUTURE`] never comes.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// The clock as handles keep it. Built-in clocks override this to avoid the indirection.
    #[doc(hidden)]
    fn into_handle(self) -> ClockHandle
    where
        Self: Sized,
    {
        ClockHandle::custom(Arc::new(self))
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

    fn into_handle(self) -> ClockHandle {
        ClockHandle::custom(self)
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

    fn into_handle(self) -> ClockHandle {
        ClockHandle::custom(self)
    }
}

/// A clock as the handles keep it: cheap to clone, and without a type parameter.
///
/// Every clock converts into it, so builders take `clock(my_clock)`.
#[derive(Clone, Debug)]
pub struct ClockHandle {
    // Every layer asks for it several times in a call: a load is cheaper than a match.
    id: ClockId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    #[cfg(feature = "tokio")]
    Tokio,
    #[cfg(feature = "fast-clock")]
    Fast,
    Blocking,
    Manual(ManualClock),
    Custom(Arc<dyn Clock>),
}

/// Which clock a reading came from, so that readings of two clocks are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockId(usize);

impl ClockId {
    /// No clock at all.
    pub(crate) const NONE: Self = Self(0);
    #[cfg(feature = "tokio")]
    const TOKIO: Self = Self(1);
    #[cfg(feature = "fast-clock")]
    const FAST: Self = Self(2);
    const BLOCKING: Self = Self(3);

    /// The clock of this identity, where it needs no more than that to be read.
    pub(crate) const fn handle(self) -> Option<ClockHandle> {
        match self {
            #[cfg(feature = "tokio")]
            Self::TOKIO => Some(ClockHandle::TOKIO),
            #[cfg(feature = "fast-clock")]
            Self::FAST => Some(ClockHandle::FAST),
            Self::BLOCKING => Some(ClockHandle::BLOCKING),
            _ => None,
        }
    }
}

impl ClockHandle {
    #[cfg(feature = "tokio")]
    const TOKIO: Self = Self::new(ClockId::TOKIO, Kind::Tokio);
    #[cfg(feature = "fast-clock")]
    const FAST: Self = Self::new(ClockId::FAST, Kind::Fast);
    const BLOCKING: Self = Self::new(ClockId::BLOCKING, Kind::Blocking);

    const fn new(id: ClockId, kind: Kind) -> Self {
        Self { id, kind }
    }

    fn custom(clock: Arc<dyn Clock>) -> Self {
        let address = Arc::as_ptr(&clock).cast::<()>() as usize;
        Self::new(ClockId(address), Kind::Custom(clock))
    }

    /// The clock a builder uses when none is given: tokio's, with the feature `tokio`.
    pub(crate) const fn preset() -> Option<Self> {
        #[cfg(feature = "tokio")]
        return Some(Self::TOKIO);
        #[cfg(not(feature = "tokio"))]
        None
    }

    #[inline]
    pub(crate) const fn id(&self) -> ClockId {
        self.id
    }

    /// Whether it is a clock of the user's own, which may go back. The built-in ones never do.
    pub(crate) const fn is_custom(&self) -> bool {
        matches!(self.kind, Kind::Custom(_))
    }

    /// The time on this clock.
    #[inline(always)]
    pub fn now(&self) -> Instant {
        match &self.kind {
            #[cfg(feature = "tokio")]
            Kind::Tokio => TokioClock.now(),
            #[cfg(feature = "fast-clock")]
            Kind::Fast => fast::now(),
            Kind::Blocking => BlockingClock.now(),
            Kind::Manual(clock) => clock.now(),
            Kind::Custom(clock) => clock.now(),
        }
    }

    /// Waits until this clock reads `deadline`. Allocates for custom clocks only.
    #[inline]
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        match &self.kind {
            #[cfg(feature = "tokio")]
            Kind::Tokio => TokioClock.sleep_until(deadline),
            #[cfg(feature = "fast-clock")]
            Kind::Fast => fast::sleep_until(deadline),
            Kind::Blocking => BlockingClock.sleep_until(deadline),
            Kind::Manual(clock) => clock.sleep_until(deadline),
            Kind::Custom(clock) => clock.sleep_until(deadline),
        }
    }
}

impl<C: Clock> From<C> for ClockHandle {
    fn from(clock: C) -> Self {
        clock.into_handle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_have_identities() {
        let (a, b) = (ManualClock::new(), ManualClock::new());
        assert_eq!(
            ClockHandle::from(a.clone()).id(),
            ClockHandle::from(a.clone()).id()
        );
        assert_ne!(ClockHandle::from(a.clone()).id(), ClockHandle::from(b).id());
        assert_ne!(
            ClockHandle::from(BlockingClock).id(),
            ClockHandle::from(a).id()
        );
        assert_ne!(ClockHandle::from(BlockingClock).id(), ClockId::NONE);
    }
}
