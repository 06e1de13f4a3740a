//! Permits: RAII guards of admitted calls.

use std::fmt;
use std::sync::Arc;

use super::inner::Inner;
use super::raw_permit::{Ending, RawPermit};
use crate::verdict::Verdict;

/// A permit for one call, borrowed from its bulkhead. Released on drop.
///
/// Dropping it gives an adaptive bulkhead no sample. Use [`success`](Self::success),
/// [`overloaded`](Self::overloaded), or [`record`](Self::record) for that. The policy does it automatically.
#[must_use = "a permit is released when it is dropped"]
pub struct Permit<'a> {
    pub(super) inner: &'a Inner,
    pub(super) raw: RawPermit,
}

/// A permit for one call with its own handle of the bulkhead, which may be moved to another task. Released on
/// drop, like [`Permit`].
#[must_use = "a permit is released when it is dropped"]
pub struct OwnedPermit {
    pub(super) inner: Arc<Inner>,
    pub(super) raw: RawPermit,
}

macro_rules! permit {
    ($name:ident, $permit:ty) => {
        impl $permit {
            /// Records a success and releases the permit. An adaptive limit learns from the call's latency.
            pub fn success(mut self) {
                self.end(Ending::Success);
            }

            /// Records an overload and releases the permit: the call timed out, was throttled, or was abandoned.
            /// An adaptive limit decreases.
            pub fn overloaded(mut self) {
                self.end(Ending::Overloaded);
            }

            /// Records a classifier's verdict and releases the permit. Healthy is a success, an unhealthy throttled or
            /// timed out is an overload, and other verdicts give an adaptive limit no sample.
            pub fn record(mut self, verdict: &Verdict) {
                self.end(Ending::of(verdict));
            }

            /// Returns the number of permits held, which is the cost of the call. 0 for a call that
            /// [bypasses](super::Bulkhead::bypass) the bulkhead.
            pub fn cost(&self) -> u32 {
                self.raw.cost()
            }

            #[inline(always)]
            fn end(&mut self, ending: Ending) {
                if let Some(raw) = self.raw.take() {
                    let inner: &Inner = &self.inner;
                    inner.leave(raw, ending, || inner.base.clock.now(), None);
                }
            }
        }

        impl fmt::Debug for $permit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("bulkhead", &self.inner.base.name)
                    .field("cost", &self.cost())
                    .finish()
            }
        }
    };
}

permit!(Permit, Permit<'_>);
permit!(OwnedPermit, OwnedPermit);

impl Permit<'_> {
    /// Converts into the raw permit without releasing it.
    pub(super) fn into_raw(mut self) -> RawPermit {
        let raw = self.raw;
        self.raw.take();
        raw
    }
}

impl OwnedPermit {
    /// Releases the permit of a call that was dropped or panicked while it ran, as the policy does.
    #[cfg(all(feature = "tower", feature = "http"))]
    pub(crate) fn dropped(mut self) {
        let ending = self.inner.ending_of_drop();
        self.end(ending);
    }
}

impl Drop for Permit<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.end(Ending::Neutral);
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        self.end(Ending::Neutral);
    }
}
