//! Cleanup when starting an attempt panics.

use std::mem;

/// Runs a closure if the code before [`disarm`](Self::disarm) panics.
///
/// For layers that already hold a permit or a count when they start an attempt. A guard stored in the layer's
/// future would be written and moved before the writes have left the store buffer, which costs more than the rest
/// of the layer. This guard works on copies of the few words from which the future's guard is made later.
pub(crate) struct OnUnwind<F: FnMut()>(F);

impl<F: FnMut()> OnUnwind<F> {
    #[inline(always)]
    pub(crate) const fn new(undo: F) -> Self {
        Self(undo)
    }

    /// Disarms the guard: dropping it does nothing.
    #[inline(always)]
    pub(crate) fn disarm(self) {
        mem::forget(self);
    }
}

impl<F: FnMut()> Drop for OnUnwind<F> {
    #[inline(always)]
    fn drop(&mut self) {
        (self.0)();
    }
}
