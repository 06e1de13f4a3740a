//! A position in the wait queue.

use std::task::{Context as TaskContext, Poll, Waker};

use super::permit_queue::{Entrant, PermitQueue};
use super::state::{Settled, Taken};
use crate::error::Reason;
use crate::instant::Instant;

/// A position in the wait queue. Dropping it leaves the queue and releases permits that were already handed over.
/// Fields are whole words, as in [`Taken`].
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a PermitQueue,
    partition: usize,
    /// The waiter's cell, or `COLLECTED` after the end of the wait.
    cell: usize,
}

const COLLECTED: usize = usize::MAX;

impl<'a> Ticket<'a> {
    /// Joins the queue, or returns `None` if it is full. Also returns whether the wait may have ended already. If
    /// not, the waker is registered and the ticket need not be polled.
    #[inline]
    pub(super) fn new(
        queue: &'a PermitQueue,
        entrant: Entrant,
        now: Instant,
        waker: &Waker,
    ) -> Option<(Self, bool)> {
        // A waker may be user code, so it is cloned outside the lock.
        let partition = entrant.partition as usize;
        let waker = waker.clone();
        let (cell, may_be_next) =
            queue.push(entrant.cost, partition, entrant.priority, now, waker)?;
        // Created before serving, so that its drop leaves the queue if a waker panics.
        let ticket = Self {
            queue,
            partition,
            cell,
        };
        if may_be_next {
            queue.serve();
        }
        Some((ticket, may_be_next))
    }

    /// Returns how the wait ended, or registers the waker.
    pub(super) fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Taken, Reason>> {
        let mut waker = None;
        loop {
            let mut waiting = self.queue.lock();
            if let Some(settled) = waiting.list.collect(self.cell) {
                self.cell = COLLECTED;
                return Poll::Ready(match settled {
                    Settled::Admitted(taken) => Ok(taken),
                    Settled::Rejected(reason) => Err(reason),
                });
            }
            let Some(old) = waiting.list.waker_mut(self.cell) else {
                return Poll::Pending;
            };
            if old.will_wake(task.waker()) {
                return Poll::Pending;
            }
            // Wakers are neither cloned nor dropped under the lock.
            if let Some(new) = waker.take() {
                let old = std::mem::replace(old, new);
                drop(waiting);
                drop(old);
                return Poll::Pending;
            }
            drop(waiting);
            waker = Some(task.waker().clone());
        }
    }

    #[inline(never)]
    fn leave(&self) {
        let queue = self.queue;
        let mut waiting = queue.lock();
        if let Some(waker) = waiting.list.remove(self.partition, self.cell) {
            queue.after_removal(&mut waiting);
            drop(waiting);
            // The next waiter may need fewer permits than this one did.
            queue.serve();
            // User code, outside the lock.
            drop(waker);
            return;
        }
        let settled = waiting.list.collect(self.cell);
        drop(waiting);
        if let Some(Settled::Admitted(taken)) = settled {
            queue.release(taken.cost(), self.partition as u32);
        }
    }
}

impl Drop for Ticket<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.cell != COLLECTED {
            self.leave();
        }
    }
}
