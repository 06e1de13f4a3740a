//! Places in the line, as those have them who wait.

use std::task::{Context as TaskContext, Poll};

use super::Gate;
use crate::bulkhead::state::{Settled, Taken};
use crate::error::Reason;
use crate::sync::lock_checked;

/// A place in the line. Dropping it gives the place up, and what it may have been given too.
///
/// In whole words, as [`Taken`] is.
#[derive(Debug)]
pub(in crate::bulkhead) struct Ticket<'a> {
    gate: &'a Gate,
    lane: usize,
    /// `OVER`, once it has been told how the waiting ended.
    slot: usize,
}

const OVER: usize = usize::MAX;

impl<'a> Ticket<'a> {
    #[inline]
    pub(super) const fn new(gate: &'a Gate, lane: usize, slot: usize) -> Self {
        Self { gate, lane, slot }
    }

    /// Whether the waiting is over, and how it ended.
    pub(in crate::bulkhead) fn poll(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Taken, Reason>> {
        let mut waker = None;
        loop {
            let mut queue = lock_checked(&self.gate.queue);
            if let Some(settled) = queue.lines.collect(self.slot) {
                self.slot = OVER;
                return Poll::Ready(match settled {
                    Settled::Admitted(taken) => Ok(taken),
                    Settled::Refused(reason) => Err(reason),
                });
            }
            let Some(old) = queue.lines.waker_mut(self.slot) else {
                return Poll::Pending;
            };
            if old.will_wake(task.waker()) {
                return Poll::Pending;
            }
            // A waker may be the user's code: it is neither cloned nor dropped under the lock.
            if let Some(new) = waker.take() {
                let old = std::mem::replace(old, new);
                drop(queue);
                drop(old);
                return Poll::Pending;
            }
            drop(queue);
            waker = Some(task.waker().clone());
        }
    }
}

impl Drop for Ticket<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.slot != OVER {
            self.give_up();
        }
    }
}

impl Ticket<'_> {
    #[inline(never)]
    fn give_up(&mut self) {
        let gate = self.gate;
        let mut queue = lock_checked(&gate.queue);
        // A waker may be the user's code: it is dropped last.
        if let Some(_waker) = queue.lines.remove(self.lane, self.slot) {
            gate.one_less(&mut queue);
            drop(queue);
            // It may have blocked a smaller one behind it.
            gate.hand_out();
            return;
        }
        let settled = queue.lines.collect(self.slot);
        drop(queue);
        if let Some(Settled::Admitted(taken)) = settled {
            gate.give_back(taken.cost(), self.lane);
        }
    }
}
