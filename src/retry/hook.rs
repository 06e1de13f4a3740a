//! The hook of [`Retry::notify`](super::Retry::notify).

use super::state::Retrying;
use crate::blocking;
use crate::error::Error;
use crate::policy::Operation;

/// A hook that receives the error of each failed attempt before the next one.
pub trait Hook<Op: Operation>: Copy {
    /// Calls the hook.
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying);
}

/// The absence of a hook.
impl<Op: Operation> Hook<Op> for () {
    fn call(self, _: &Error<Op::Error>, _: &Retrying) {}
}

/// A closure as a hook.
#[derive(Debug)]
pub struct Hooked<'a, F> {
    pub(super) hook: &'a F,
}

// Derived implementations would require `F: Copy`.
impl<F> Clone for Hooked<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Hooked<'_, F> {}

impl<F, Op> Hook<Op> for Hooked<'_, F>
where
    F: Fn(&Error<Op::Error>, &Retrying),
    Op: Operation,
{
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying) {
        blocking::outside(|| (self.hook)(error, retrying));
    }
}
