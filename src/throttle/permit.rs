//! The permission to make one call.

use std::fmt;

use super::inner::Inner;
use crate::life::Life;
use crate::verdict::{Health, Verdict};
use crate::window::Slice;

/// The permission to make one call, given by
/// [`Throttle::try_acquire`](super::Throttle::try_acquire). The call is a request already.
///
/// Say how the call went with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). Dropped without, it counts as
/// [`cancelled_as`](super::ThrottleBuilder::cancelled_as) says, by default not at all; dropped by a
/// panic, as [`panicked_as`](super::ThrottleBuilder::panicked_as) says.
#[must_use = "dropping it takes the request back"]
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

    /// Moves the permit; the one here has ended.
    #[inline]
    pub(super) const fn move_out(&mut self) -> Self {
        Self::new(self.inner, self.slice, self.is_probe, self.life.take())
    }

    /// Whether the call should have been refused, but none was let through for too long.
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The call ended well.
    pub fn success(self) {
        self.record(Verdict::success());
    }

    /// The call failed, and the dependency is to blame.
    pub fn failure(self) {
        self.record(Verdict::failure());
    }

    /// The call ended with a result of this verdict: healthy is an accept, unhealthy a failure;
    /// neutral takes the request back.
    #[inline]
    pub fn record(mut self, verdict: Verdict) {
        self.end(verdict.health());
    }

    #[inline]
    fn end(&mut self, health: Health) {
        if !self.life.end() {
            return;
        }
        let accepted = match health {
            Health::Healthy => Some(true),
            Health::Unhealthy => Some(false),
            Health::Neutral => None,
        };
        self.inner.state.end(self.slice, accepted);
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
        self.end(health);
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
