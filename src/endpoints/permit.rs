//! Permits: one call to one node each.

use std::fmt;

use super::flight::Flight;
use super::node::Node;
use crate::verdict::Verdict;

/// A permit for one call to one node. Returned by [`Endpoints::try_acquire`](super::Endpoints::try_acquire).
///
/// Record the result with [`success`](Self::success), [`failure`](Self::failure) or [`record`](Self::record). A
/// permit that is dropped without a result counts as cancelled: its elapsed time is a lower bound of the latency. If
/// a panic drops it, the call has failed.
#[must_use = "dropping it ends the call"]
pub struct Permit<'a, N> {
    pub(super) flight: Flight<'a, N>,
}

impl<N> Permit<'_, N> {
    /// Returns the node to call.
    pub const fn node(&self) -> &Node<N> {
        let node = self.flight.node();
        node.expect("only what consumes the permit ends its call")
    }

    /// Records a success and ends the call.
    pub fn success(self) {
        self.record(Verdict::success());
    }

    /// Records a failure of the node and ends the call.
    pub fn failure(self) {
        self.record(Verdict::failure());
    }

    /// Records a classifier's verdict and ends the call.
    pub fn record(mut self, verdict: Verdict) {
        let now = self.flight.inner().base.clock.now();
        self.flight.end(verdict, now, None);
    }
}

impl<N> fmt::Debug for Permit<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("node", self.node())
            .finish_non_exhaustive()
    }
}
