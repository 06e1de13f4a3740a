//! The permission to make one call.

use std::{fmt, thread};

use super::inner::Inner;
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
    /// The call is being polled: if it is dropped now, it panicked.
    pub(super) is_running: bool,
    /// A panic of the thread says nothing about the call.
    ignores_panics: bool,
    health: Option<Health>,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) const fn new(
        inner: &'a Inner,
        slice: Slice,
        is_probe: bool,
        ignores_panics: bool,
    ) -> Self {
        Self {
            inner,
            slice,
            is_probe,
            is_running: false,
            ignores_panics,
            health: None,
        }
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
        self.health = Some(verdict.health());
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        let inner = self.inner;
        let health = self.health.unwrap_or_else(|| {
            if self.is_running || (!self.ignores_panics && thread::panicking()) {
                inner.settings.panicked_as
            } else {
                inner.settings.cancelled_as
            }
        });
        let accepted = match health {
            Health::Healthy => Some(true),
            Health::Unhealthy => Some(false),
            Health::Neutral => None,
        };
        inner.state.end(self.slice, accepted);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.inner.settings.name)
            .field("is_probe", &self.is_probe)
            .finish_non_exhaustive()
    }
}
