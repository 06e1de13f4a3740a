//! Cleanup when starting an attempt panics.

use std::mem;

/// Undoes something if the code until [`disarm`](Self::disarm) panics.
///
/// For layers that already hold something when they make an attempt. A guard that the layer's future
/// is given afterwards would be written, and then moved before the writes have settled, which costs
/// more than the layer does; this one works on copies of the few words that the guard is made of
/// later.
pub(crate) struct OnUnwind<F: FnMut()>(F);

impl<F: FnMut()> OnUnwind<F> {
    #[inline(always)]
    pub(crate) const fn new(undo: F) -> Self {
        Self(undo)
    }

    /// Nothing has to be undone any more.
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
