//! Permits for single calls.

use std::fmt;

use super::inner::Inner;
use crate::life::Life;
use crate::verdict::{Health, Verdict};
use crate::window::Slice;

/// A permit for one call, returned by [`Throttle::try_acquire`](super::Throttle::try_acquire). The call already counts as
/// a request.
///
/// Record the result with [`success`](Self::success), [`failure`](Self::failure), or [`record`](Self::record). A
/// permit that is dropped without a result counts as [`cancelled_as`](super::ThrottleBuilder::cancelled_as) (by
/// default, it is not counted); one that is dropped by a panic counts as
/// [`panicked_as`](super::ThrottleBuilder::panicked_as).
#[must_use = "a dropped permit records no result"]
pub struct Permit<'a> {
    inner: &'a Inner,
    slice: Slice,
    is_probe: bool,
    pub(super) life: Life,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) const fn new(inner: &'a Inner, slice: Slice, is_probe: bool, life: Life) -> Self {
        Self {
            inner,
            slice,
            is_probe,
            life,
        }
    }

    /// Moves the permit out, and leaves one that has ended.
    #[inline]
    pub(super) const fn move_out(&mut self) -> Self {
        Self::new(self.inner, self.slice, self.is_probe, self.life.take())
    }

    /// Returns whether the call would have been rejected, and was admitted as a probe.
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Records a success.
    pub fn success(self) {
        self.record(Verdict::success());
    }

    /// Records a failure of the dependency.
    pub fn failure(self) {
        self.record(Verdict::failure());
    }

    /// Records a result by its verdict: healthy is an accept, unhealthy a failure, and neutral withdraws the
    /// request.
    #[inline]
    pub fn record(mut self, verdict: Verdict) {
        self.finish(verdict.health());
    }

    #[inline]
    fn finish(&mut self, health: Health) {
        if !self.life.end() {
            return;
        }
        let accepted = match health {
            Health::Healthy => Some(true),
            Health::Unhealthy => Some(false),
            Health::Neutral => None,
        };
        self.inner.state.finish(self.slice, accepted);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.life.is_over() {
            return;
        }
        let settings = &self.inner.settings;
        let health = self
            .life
            .dropped_as(settings.cancelled_as, settings.panicked_as);
        self.finish(health);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.inner.base.name)
            .field("is_probe", &self.is_probe)
            .finish_non_exhaustive()
    }
}
