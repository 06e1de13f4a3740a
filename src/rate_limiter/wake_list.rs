//! Wakers that are woken after a lock has been released.

use std::mem::take;
use std::task::Waker;

use crate::event::Panics;

/// Wakers to wake when this is dropped: declared before a lock is taken, it outlives the lock.
///
/// Wakers are user code. One that panics does not keep the others from being woken; the first panic goes
/// on afterwards.
#[derive(Debug, Default)]
pub(super) struct WakeList {
    // Usually there is one at most.
    one: Option<Waker>,
    more: Vec<Waker>,
    /// A waker that is not needed any more, to be dropped with the rest.
    pub(super) replaced: Option<Waker>,
}

impl WakeList {
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match waker {
            Some(waker) if self.one.is_none() => self.one = Some(waker),
            waker => self.more.extend(waker),
        }
    }

    /// Wakes them now. The caller has to let a panic go on.
    pub(super) fn wake(&mut self) -> Panics {
        let mut panics = Panics::default();
        for waker in self.one.take().into_iter().chain(take(&mut self.more)) {
            panics.run(|| waker.wake());
        }
        panics.run(|| drop(self.replaced.take()));
        panics
    }
}

impl Drop for WakeList {
    fn drop(&mut self) {
        self.wake().resume();
    }
}
