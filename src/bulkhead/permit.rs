//! Permits: what an admitted call holds until it is over.

use super::held::{Ending, Held};
use super::{Bulkhead, Inner};
use crate::verdict::Verdict;

/// The right to run, borrowed from its bulkhead. Given back when dropped.
///
/// Dropping it says nothing about the dependency. An adaptive bulkhead wants to know more:
/// [`success`](Self::success), [`overloaded`](Self::overloaded) or [`record`](Self::record). As a
/// policy the bulkhead does that by itself.
#[derive(Debug)]
#[must_use = "a permit is given back when it is dropped"]
pub struct Permit<'a> {
    pub(super) bulkhead: &'a Inner,
    pub(super) held: Held,
}

/// The right to run, with its own handle of the bulkhead: it may be moved anywhere. Given back when
/// dropped, like [`Permit`].
#[derive(Debug)]
#[must_use = "a permit is given back when it is dropped"]
pub struct OwnedPermit {
    pub(super) bulkhead: Bulkhead,
    pub(super) held: Held,
}

macro_rules! permit {
    ($permit:ty, |$this:ident| $inner:expr) => {
        impl $permit {
            /// The work went well: its latency tells an adaptive limit how loaded the dependency is.
            pub fn success(mut self) {
                self.end(Ending::Success);
            }

            /// The work timed out, was refused as too much, or was given up: an adaptive limit
            /// shrinks.
            pub fn overloaded(mut self) {
                self.end(Ending::Overloaded);
            }

            /// Ends the work with what a classifier says: healthy is a success, throttled and timed
            /// out mean overload, anything else says nothing about the load.
            pub fn record(mut self, verdict: &Verdict) {
                self.end(Ending::of(verdict));
            }

            /// How many permits this is.
            pub fn cost(&self) -> u32 {
                self.held.cost()
            }

            #[inline]
            fn end(&mut self, ending: Ending) {
                if let Some(held) = self.held.take() {
                    let $this = &*self;
                    let inner: &Inner = $inner;
                    inner.leave(held, ending, || inner.clock.now(), None);
                }
            }
        }
    };
}

permit!(Permit<'_>, |permit| permit.bulkhead);
permit!(OwnedPermit, |permit| &permit.bulkhead.inner);

impl Permit<'_> {
    /// What it holds, for a permit of another kind: nothing is given back.
    pub(super) fn keep(mut self) -> Held {
        let held = self.held;
        self.held.take();
        held
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.end(Ending::Neutral);
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        self.end(Ending::Neutral);
    }
}
