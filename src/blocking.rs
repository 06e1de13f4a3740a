//! Whether the current thread runs the loop of `call_blocking`.

use std::cell::Cell;

thread_local! {
    /// Number of nested loops on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Returns whether this thread is inside `call_blocking`.
#[inline]
pub(crate) fn is_active() -> bool {
    DEPTH.get() > 0
}

/// Runs user code that may start a runtime, such as an operation, a hook, or an observer. Meanwhile, sleeps on this
/// thread are those of the runtime that polls them.
#[inline(always)]
pub(crate) fn outside<R>(code: impl FnOnce() -> R) -> R {
    let _depth = is_active().then(|| Depth::at(0));
    code()
}

/// Restores the outer depth, also when the code inside panics.
pub(crate) struct Depth {
    outer: u32,
}

impl Depth {
    pub(crate) fn enter() -> Self {
        Self::at(DEPTH.get() + 1)
    }

    fn at(depth: u32) -> Self {
        Self {
            outer: DEPTH.replace(depth),
        }
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(self.outer);
    }
}
