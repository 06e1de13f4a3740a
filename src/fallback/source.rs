//! Sources of the values that replace errors.

use std::fmt;
use std::future::{Future, Ready};

use crate::blocking;
use crate::error::Error;
use crate::policy::Operation;

/// Makes replacements for errors.
///
/// Implemented by [`Value`], [`With`], [`TryWith`], and [`To`].
pub trait Source<Op: Operation> {
    /// The future of a replacement that takes time.
    type Future: Future<Output = Result<Op::Value, Op::Error>>;

    /// Returns the replacement for an error.
    fn replace(&self, error: &Error<Op::Error>) -> Replacement<Op::Value, Self::Future>;
}

/// A replacement for an error.
#[derive(Clone, Copy, Debug)]
pub enum Replacement<T, F> {
    /// No replacement: the error passes through.
    Nothing,
    /// A value.
    Value(T),
    /// Another operation.
    Operation(F),
}

/// A value. Returned by [`Fallback::value`](super::Fallback::value).
#[derive(Clone, Copy, Debug)]
pub struct Value<T> {
    value: T,
}

impl<T> Value<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { value }
    }
}

impl<T: Clone, Op: Operation<Value = T>> Source<Op> for Value<T> {
    type Future = Ready<Result<T, Op::Error>>;

    fn replace(&self, _: &Error<Op::Error>) -> Replacement<T, Self::Future> {
        Replacement::Value(blocking::outside(|| self.value.clone()))
    }
}

/// Declares sources that consist of a function.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<F> {
            function: F,
        }

        impl<F> $name<F> {
            pub(super) const fn new(function: F) -> Self {
                Self { function }
            }
        }

        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

functions! {
    /// A function of the error. Returned by [`Fallback::with`](super::Fallback::with).
    With;
    /// A function of some errors. Returned by [`Fallback::try_with`](super::Fallback::try_with).
    TryWith;
    /// Another operation. Returned by [`Fallback::to`](super::Fallback::to).
    To;
}

impl<F, Op> Source<Op> for With<F>
where
    F: Fn(&Error<Op::Error>) -> Op::Value,
    Op: Operation,
{
    type Future = Ready<Result<Op::Value, Op::Error>>;

    fn replace(&self, error: &Error<Op::Error>) -> Replacement<Op::Value, Self::Future> {
        Replacement::Value(blocking::outside(|| (self.function)(error)))
    }
}

impl<F, Op> Source<Op> for TryWith<F>
where
    F: Fn(&Error<Op::Error>) -> Option<Op::Value>,
    Op: Operation,
{
    type Future = Ready<Result<Op::Value, Op::Error>>;

    fn replace(&self, error: &Error<Op::Error>) -> Replacement<Op::Value, Self::Future> {
        match blocking::outside(|| (self.function)(error)) {
            Some(value) => Replacement::Value(value),
            None => Replacement::Nothing,
        }
    }
}

impl<F, Fut, Op> Source<Op> for To<F>
where
    F: Fn(&Error<Op::Error>) -> Fut,
    Fut: Future<Output = Result<Op::Value, Op::Error>>,
    Op: Operation,
{
    type Future = Fut;

    fn replace(&self, error: &Error<Op::Error>) -> Replacement<Op::Value, Fut> {
        Replacement::Operation(blocking::outside(|| (self.function)(error)))
    }
}
