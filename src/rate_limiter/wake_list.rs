//! Wakers to wake after a lock is released.

use std::mem::take;
use std::task::Waker;

use crate::event::Panics;

/// Wakers that are woken when this is dropped. Declared before a lock is taken, it outlives the guard.
///
/// Wakers are user code. A panic in one does not keep the others from being woken; the first panic propagates
/// afterwards.
#[derive(Debug, Default)]
pub(super) struct WakeList {
    // The first waker. There is rarely a second.
    one: Option<Waker>,
    more: Vec<Waker>,
    /// A waker that is no longer needed, dropped with the rest.
    pub(super) replaced: Option<Waker>,
}

impl WakeList {
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match waker {
            Some(waker) if self.one.is_none() => self.one = Some(waker),
            waker => self.more.extend(waker),
        }
    }

    /// Wakes them now. The caller must resume the returned panic.
    pub(super) fn wake(&mut self) -> Panics {
        let mut panics = Panics::default();
        panics.wake(self.one.take());
        panics.wake(take(&mut self.more));
        panics.run(|| drop(self.replaced.take()));
        panics
    }
}

impl Drop for WakeList {
    fn drop(&mut self) {
        self.wake().resume();
    }
}
