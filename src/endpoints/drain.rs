//! Draining a node.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use super::Endpoints;
use super::inner::{Core, Effect, WaitingDrain};
use super::state::record::Change;
use super::state::stats::NodeStats;
use crate::event::Panics;

impl<N> Endpoints<N> {
    /// Sends no further calls to a node. The returned future is ready when those in flight have ended;
    /// `None` if there is no node of this name.
    ///
    /// The node stays in the set, and takes no calls until [`resume`](Self::resume). It does not count for
    /// the panic threshold and the shares of the priorities.
    ///
    /// # Cancel safety
    ///
    /// The node is drained whether the future is polled or dropped.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::endpoints::{Endpoint, Endpoints};
    /// use backstop::ManualClock;
    ///
    /// let clock = ManualClock::new();
    /// let nodes = [Endpoint::new("a", 1), Endpoint::new("b", 2)];
    /// let endpoints = Endpoints::builder().nodes(nodes).clock(clock.clone()).build()?;
    ///
    /// let drained = endpoints.drain("a").expect("it is in the set");
    /// clock.block_on(drained); // no call is in flight
    /// assert_eq!(endpoints.try_acquire().unwrap().node().name(), "b");
    /// endpoints.resume("a");
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn drain(&self, name: &str) -> Option<Drain<N>> {
        let now = self.inner.base.clock.now();
        let mut drained = None;
        self.inner.change(now, None, |core| {
            let Some((index, record)) = core.record_of(name) else {
                return Effect::Nothing;
            };
            drained = Some(record.stats.clone());
            if std::mem::replace(&mut record.is_drained, true) {
                return Effect::Nothing;
            }
            let in_flight = record.stats.in_flight();
            let mut changes = vec![Change::Draining { index, in_flight }];
            changes.extend(core.machine.admit_last(now));
            Effect::Reroute(changes)
        });
        let stats = drained?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Some(Drain {
            endpoints: self.clone(),
            stats,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Sends calls to a drained node again, with a slow start. Returns whether there is a drained node of this name.
    pub fn resume(&self, name: &str) -> bool {
        let now = self.inner.base.clock.now();
        let mut resumed = Vec::new();
        let change = |core: &mut Core<N>| {
            match core.record_of(name) {
                Some((_, record)) if record.is_drained => {
                    record.is_drained = false;
                    record.new_since = Some(now);
                    record.stats.open();
                    resumed.push(record.stats.clone());
                    // It may be ejected, and the only one of its priority.
                    Effect::Reroute(core.machine.admit_last(now))
                }
                _ => Effect::Nothing,
            }
        };
        let mut panics = Panics::default();
        panics.run(|| self.inner.change(now, None, change));
        self.inner.wake_drains_in(&mut panics, &resumed);
        panics.resume();
        !resumed.is_empty()
    }
}

/// Waits until a drained node has no calls in flight, or takes calls again. Returned by [`Endpoints::drain`].
#[must_use = "futures do nothing unless you `.await` or poll them"]
#[derive(Debug)]
pub struct Drain<N> {
    endpoints: Endpoints<N>,
    stats: Arc<NodeStats>,
    number: u64,
}

impl<N> Drain<N> {
    /// Returns whether the wait is over.
    fn is_over(&self) -> bool {
        self.stats.in_flight() == 0 || !self.stats.is_closed()
    }

    /// Replaces the registered waker. Returns the old one, to be dropped outside the lock.
    fn exchange(&self, new: Option<WaitingDrain>) -> Option<WaitingDrain> {
        let mut core = self.endpoints.inner.core();
        let at = core
            .drains
            .iter()
            .position(|drain| drain.number == self.number);
        let old = at.map(|at| core.drains.swap_remove(at));
        core.drains.extend(new);
        old
    }
}

impl<N> Future for Drain<N> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let old = self.exchange(Some(WaitingDrain {
            stats: self.stats.clone(),
            number: self.number,
            waker: task.waker().clone(),
        }));
        drop(old);
        // Checks again, because the last call may have ended before the waker was registered.
        if self.is_over() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<N> Drop for Drain<N> {
    fn drop(&mut self) {
        let old = self.exchange(None);
        drop(old);
    }
}
