//! Runs user code whose panics must not keep other code from running.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// Runs pieces of user code, such as observers and wakers, each even if an earlier one panicked. The first panic
/// propagates once all have run.
#[derive(Default)]
#[must_use = "a panic must go on"]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Runs a piece of user code.
    ///
    /// Never inlined: rustc 1.95 with LLVM 22 miscompiles functions in which two landing pads keep a panic. The
    /// second one overwrites the exception that it caught with the panic kept before.
    #[inline(never)]
    pub(crate) fn run(&mut self, code: impl FnOnce()) {
        // Unwind safe: the code borrows nothing of this crate that it could leave inconsistent.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
            self.0.get_or_insert(panic);
        }
    }

    /// Wakes all of these, even if one panics.
    pub(crate) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            self.run(|| waker.wake());
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Resumes the first panic, unless the thread is panicking already.
    pub(crate) fn resume(self) {
        if let Some(panic) = self.0 {
            if !std::thread::panicking() {
                resume_unwind(panic);
            }
        }
    }
}
