//! Permits: RAII guards of admitted calls.

use std::sync::Arc;

use super::inner::Inner;
use super::raw_permit::{Ending, RawPermit};
use crate::verdict::Verdict;

/// The right to run, borrowed from its bulkhead. Released when dropped.
///
/// Dropping it says nothing about the dependency. An adaptive bulkhead wants to know more:
/// [`success`](Self::success), [`overloaded`](Self::overloaded) or [`record`](Self::record). As a
/// policy the bulkhead does that by itself.
#[derive(Debug)]
#[must_use = "a permit is released when it is dropped"]
pub struct Permit<'a> {
    pub(super) inner: &'a Inner,
    pub(super) held: RawPermit,
}

/// The right to run, with its own handle of the bulkhead: it may be moved anywhere. Released when
/// dropped, like [`Permit`].
#[derive(Debug)]
#[must_use = "a permit is released when it is dropped"]
pub struct OwnedPermit {
    pub(super) inner: Arc<Inner>,
    pub(super) held: RawPermit,
}

macro_rules! permit {
    ($permit:ty) => {
        impl $permit {
            /// Ends the work as a success: its latency tells an adaptive limit how loaded the dependency
            /// is.
            pub fn success(mut self) {
                self.end(Ending::Success);
            }

            /// Ends the work as one that timed out, was rejected as too much, or was given up: an
            /// adaptive limit shrinks.
            pub fn overloaded(mut self) {
                self.end(Ending::Overloaded);
            }

            /// Ends the work with the verdict of a classifier: healthy is a success, throttled and timed
            /// out are overload, anything else says nothing about the load.
            pub fn record(mut self, verdict: &Verdict) {
                self.end(Ending::of(verdict));
            }

            /// Returns the number of permits held: the cost of the call, or 0 for one that
            /// [bypasses](super::Bulkhead::bypass) the bulkhead.
            pub fn cost(&self) -> u32 {
                self.held.cost()
            }

            #[inline(always)]
            fn end(&mut self, ending: Ending) {
                if let Some(held) = self.held.take() {
                    let inner: &Inner = &self.inner;
                    inner.leave(held, ending, || inner.base.clock.now(), None);
                }
            }
        }
    };
}

permit!(Permit<'_>);
permit!(OwnedPermit);

impl Permit<'_> {
    /// Returns what it holds for a permit of another kind, without releasing it.
    pub(super) fn into_raw(mut self) -> RawPermit {
        let held = self.held;
        self.held.take();
        held
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
