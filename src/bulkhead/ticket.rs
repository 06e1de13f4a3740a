//! A waiter's place in the wait queue.

use std::task::{Context as TaskContext, Poll, Waker};

use super::permit_queue::{Entrant, PermitQueue};
use super::state::{Settled, Taken};
use crate::error::Reason;
use crate::instant::Instant;

/// A place in the wait queue. Dropping it gives up the place, and permits it was handed already. In
/// whole words, as [`Taken`] is.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a PermitQueue,
    partition: usize,
    /// `COLLECTED`, once the end of the wait is known.
    slot: usize,
}

const COLLECTED: usize = usize::MAX;

impl<'a> Ticket<'a> {
    /// Joins the queue; `None` if it is full. The flag says whether the turn may have come already;
    /// otherwise the waker is in place and the ticket need not be polled.
    #[inline]
    pub(super) fn new(
        queue: &'a PermitQueue,
        entrant: Entrant,
        now: Instant,
        waker: &Waker,
    ) -> Option<(Self, bool)> {
        // A waker may be user code: it is not cloned under the lock.
        let partition = entrant.partition as usize;
        let waker = waker.clone();
        let (slot, may_be_next) =
            queue.push(entrant.cost, partition, entrant.priority, now, waker)?;
        // Before serving: should a waker panic, the place is given up.
        let ticket = Self {
            queue,
            partition,
            slot,
        };
        if may_be_next {
            queue.serve();
        }
        Some((ticket, may_be_next))
    }

    /// Returns how the wait ended, if it has.
    pub(super) fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Taken, Reason>> {
        let mut waker = None;
        loop {
            let mut waiting = self.queue.lock();
            if let Some(settled) = waiting.list.collect(self.slot) {
                self.slot = COLLECTED;
                return Poll::Ready(match settled {
                    Settled::Admitted(taken) => Ok(taken),
                    Settled::Refused(reason) => Err(reason),
                });
            }
            let Some(old) = waiting.list.waker_mut(self.slot) else {
                return Poll::Pending;
            };
            if old.will_wake(task.waker()) {
                return Poll::Pending;
            }
            // Neither cloned nor dropped under the lock.
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
    fn give_up(&self) {
        let queue = self.queue;
        let mut waiting = queue.lock();
        if let Some(waker) = waiting.list.remove(self.partition, self.slot) {
            queue.after_removal(&mut waiting);
            drop(waiting);
            // It may have blocked a smaller one behind it.
            queue.serve();
            // User code, so not under the lock.
            drop(waker);
            return;
        }
        let settled = waiting.list.collect(self.slot);
        drop(waiting);
        if let Some(Settled::Admitted(taken)) = settled {
            queue.release(taken.cost(), self.partition as u32);
        }
    }
}

impl Drop for Ticket<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.slot != COLLECTED {
            self.give_up();
        }
    }
}
