//! Handles of clocks.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

#[cfg(feature = "fast-clock")]
use super::FastClock;
#[cfg(feature = "tokio")]
use super::TokioClock;
use super::monotonic::Monotonic;
#[cfg(feature = "tokio")]
use super::sleep;
use super::{BlockingClock, Clock, ManualClock, Sleep};
use crate::instant::Instant;

/// A handle of a clock: cheap to clone, and without a type parameter.
///
/// Every clock converts into it, so builders take `clock(my_clock)`. Its time never goes back, whatever
/// the clock does: see [`Clock`].
#[derive(Clone)]
pub struct ClockHandle {
    // Cached because every layer compares it several times in a call, and a load is cheaper than a match.
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
    Custom(Arc<Monotonic>),
}

/// Identifies the clock of a reading, so that readings of two clocks are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockId(usize);

impl ClockId {
    /// The absence of a clock.
    pub(crate) const NONE: Self = Self(0);
    #[cfg(feature = "tokio")]
    const TOKIO: Self = Self(1);
    #[cfg(feature = "fast-clock")]
    const FAST: Self = Self(2);
    const BLOCKING: Self = Self(3);

    /// Returns the clock of this identity, if it is a clock without state.
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

    /// Returns the default clock of builders: tokio's, with the feature `tokio`.
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

    /// Returns the time on this clock.
    #[inline(always)]
    pub fn now(&self) -> Instant {
        match &self.kind {
            #[cfg(feature = "tokio")]
            Kind::Tokio => TokioClock.now(),
            #[cfg(feature = "fast-clock")]
            Kind::Fast => super::counter::now(),
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
            Kind::Fast => FastClock::default().sleep_until(deadline),
            Kind::Blocking => BlockingClock.sleep_until(deadline),
            Kind::Manual(clock) => clock.sleep_until(deadline),
            Kind::Custom(clock) => clock.sleep_until(deadline),
        }
    }
}

impl fmt::Debug for ClockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<C: Clock> From<C> for ClockHandle {
    fn from(clock: C) -> Self {
        let any: &dyn Any = &clock;
        #[cfg(feature = "tokio")]
        if any.is::<TokioClock>() {
            return Self::TOKIO;
        }
        #[cfg(feature = "fast-clock")]
        if any.is::<FastClock>() {
            return Self::FAST;
        }
        if any.is::<BlockingClock>() {
            return Self::BLOCKING;
        }
        if let Some(clock) = any.downcast_ref::<ManualClock>() {
            return Self::new(ClockId(clock.address()), Kind::Manual(clock.clone()));
        }
        let clock = Monotonic::of(clock.into_arc());
        Self::new(ClockId(clock.address()), Kind::Custom(clock))
    }
}

/// Puts a sleep of `clock` until `deadline` into `slot`.
///
/// Has the same effect as assigning the result of [`ClockHandle::sleep_until`], but constructs each kind of sleep in
/// place: a sleep is 112 bytes, of which a new one uses few, and moving one costs more than constructing it.
#[inline(always)]
#[cfg_attr(not(feature = "tokio"), expect(unused_mut))]
pub(crate) fn arm(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    match &clock.kind {
        #[cfg(feature = "tokio")]
        Kind::Tokio => match sleep::tokio::Timer::new(deadline) {
            Some(timer) => slot.set(Some(Sleep::tokio(timer))),
            None => arm_other(clock, deadline, slot),
        },
        #[cfg(feature = "fast-clock")]
        Kind::Fast => match sleep::fast::Timer::new(deadline) {
            Some(timer) => slot.set(Some(Sleep::fast(timer))),
            None => arm_other(clock, deadline, slot),
        },
        _ => arm_other(clock, deadline, slot),
    }
}

#[cold]
fn arm_other(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    slot.set(Some(clock.sleep_until(deadline)));
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

    #[test]
    fn a_clock_by_its_arc_has_one_identity_whatever_its_type() {
        let clock = Arc::new(ManualClock::new());
        let shared: Arc<dyn Clock> = clock.clone();
        let handle = ClockHandle::from(clock);
        assert_eq!(handle.id(), ClockHandle::from(shared).id());
    }
}
