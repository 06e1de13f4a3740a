//! Sources of injected errors and results.

use std::fmt;

/// The absence of a function: no fault of this kind is injected.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFault;

/// A function that makes errors or results.
#[derive(Clone, Copy)]
pub struct Makes<F>(pub(super) F);

impl<F> fmt::Debug for Makes<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Makes").finish_non_exhaustive()
    }
}

/// Whether faults of a kind can be injected.
pub trait Possible {
    /// Whether they can be injected.
    const POSSIBLE: bool;
}

impl Possible for NoFault {
    const POSSIBLE: bool = false;
}

impl<F> Possible for Makes<F> {
    const POSSIBLE: bool = true;
}

/// Makes the errors to inject.
pub trait MakeError<E> {
    /// Returns an error; `None` if errors cannot be injected.
    fn make(&self) -> Option<E>;
}

impl<E> MakeError<E> for NoFault {
    fn make(&self) -> Option<E> {
        None
    }
}

impl<E, F: Fn() -> E> MakeError<E> for Makes<F> {
    fn make(&self) -> Option<E> {
        Some(self.0())
    }
}

/// Makes the results to inject.
pub trait MakeResult<T, E> {
    /// Returns a result; `None` if results cannot be injected.
    fn make(&self) -> Option<Result<T, E>>;
}

impl<T, E> MakeResult<T, E> for NoFault {
    fn make(&self) -> Option<Result<T, E>> {
        None
    }
}

impl<T, E, F: Fn() -> Result<T, E>> MakeResult<T, E> for Makes<F> {
    fn make(&self) -> Option<Result<T, E>> {
        Some(self.0())
    }
}
