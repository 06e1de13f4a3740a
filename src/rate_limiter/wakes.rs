//! Wakers that are woken after a lock has been released.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// Wakers to wake when this is dropped: declared before a lock is taken, it outlives the lock.
///
/// Wakers are code of the user. One that panics does not keep the others from being woken; the first
/// panic goes on afterwards.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    // Usually there is one at most.
    one: Option<Waker>,
    more: Vec<Waker>,
    /// A waker that is not needed any more, to be dropped with the rest.
    pub(super) replaced: Option<Waker>,
}

impl Wakes {
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match waker {
            Some(waker) if self.one.is_none() => self.one = Some(waker),
            waker => self.more.extend(waker),
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        let mut panicked = None;
        let mut guarded = |act: &mut dyn FnMut()| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
                panicked.get_or_insert(panic);
            }
        };
        for waker in self.one.take().into_iter().chain(self.more.drain(..)) {
            let mut waker = Some(waker);
            guarded(&mut || {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            });
        }
        guarded(&mut || drop(self.replaced.take()));
        if let Some(panic) = panicked {
            if !std::thread::panicking() {
                resume_unwind(panic);
            }
        }
    }
}
