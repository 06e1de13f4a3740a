//! Closures as operations.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::attempt::Attempt;
use super::classified::Classified;
use super::context::Context;
use super::operation::{Attempts, Operation, forward_attempts};
use super::outcome::Outcome;
use crate::blocking;
use crate::error::{Error, Reason, Rejected};
use crate::sync::lock;

/// A closure with the state that its attempts share. Lives in the caller's future, so that the operation is one
/// reference.
pub(super) struct Source<F> {
    closure: F,
    pub(super) attempts: Attempts,
}

impl<F> Source<F> {
    #[inline(always)]
    pub(super) const fn new(closure: F) -> Self {
        Self {
            closure,
            attempts: Attempts::new(),
        }
    }

    pub(super) const fn closure(&self) -> &F {
        &self.closure
    }

    /// Counts an attempt. Returns the closure to call for it.
    #[inline(always)]
    pub(super) fn start(&self) -> &F {
        self.attempts.start();
        &self.closure
    }
}

/// Declares operations that are a reference to a closure.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident of $source:ty;)*) => {$(
        $(#[$doc])*
        pub struct $name<'a, F>(pub(super) &'a Source<$source>);

        // Derived implementations would require `F: Copy`.
        impl<F> Clone for $name<'_, F> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<F> Copy for $name<'_, F> {}

        impl<F> fmt::Debug for $name<'_, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

operations! {
    /// The operation of [`Policy::call`](super::Policy::call).
    Call of F;
    /// The operation of [`Policy::call_with`](super::Policy::call_with).
    CallWith of F;
    /// The operation of [`Policy::call_once`](super::Policy::call_once).
    CallOnce of Mutex<Option<F>>;
    /// The operation of [`Policy::call_classified`](super::Policy::call_classified).
    CallClassified of F;
    /// The operation of [`Policy::call_blocking`](super::Policy::call_blocking).
    CallBlocking of F;
}

/// Defines the parts that are equal for all closures.
macro_rules! of_a_closure {
    () => {
        type Value = T;
        type Error = E;
        type Listener = ();

        #[inline(always)]
        fn listener(self) {}

        forward_attempts!(0.attempts);
    };
}

impl<T, E, F, Fut> Operation for Call<'_, F>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    of_a_closure!();

    type Attempt = Attempting<Fut>;

    const READS_TIME: bool = false;

    #[inline(always)]
    fn attempt(self, _: Context) -> Attempting<Fut> {
        Attempting::new((self.0.start())())
    }
}

impl<T, E, F, Fut> Operation for CallWith<'_, F>
where
    F: Fn(Attempt) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    of_a_closure!();

    type Attempt = Attempting<Fut>;

    #[inline(always)]
    fn attempt(self, cx: Context) -> Attempting<Fut> {
        Attempting::new((self.0.start())(Attempt::new(cx)))
    }
}

impl<T, E, F, Fut> Operation for CallOnce<'_, F>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    of_a_closure!();

    type Attempt = AttemptingOnce<Fut>;

    const READS_TIME: bool = false;

    #[inline(always)]
    fn attempt(self, _: Context) -> AttemptingOnce<Fut> {
        // Takes the operation under the lock and calls it outside, because it is user code.
        let closure = lock(&self.0.closure).take();
        AttemptingOnce::new(closure.map(|closure| {
            self.0.start();
            closure()
        }))
    }
}

impl<T, E, F, Fut> Operation for CallClassified<'_, F>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, Classified<E>>>,
{
    of_a_closure!();

    type Attempt = AttemptingClassified<Fut>;

    const READS_TIME: bool = false;

    #[inline(always)]
    fn attempt(self, _: Context) -> AttemptingClassified<Fut> {
        AttemptingClassified::new((self.0.start())())
    }
}

impl<'a, T, E, F> Operation for CallBlocking<'a, F>
where
    F: Fn() -> Result<T, E>,
{
    of_a_closure!();

    type Attempt = AttemptingBlocking<'a, F>;

    const READS_TIME: bool = false;

    #[inline(always)]
    fn attempt(self, _: Context) -> AttemptingBlocking<'a, F> {
        AttemptingBlocking::new(self.0.start())
    }
}

pin_project! {
    /// An attempt: the closure's future, whose result gets the default verdict.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Attempting<Fut> {
        #[pin]
        future: Fut,
    }
}

impl<Fut> Attempting<Fut> {
    #[inline(always)]
    pub(super) const fn new(future: Fut) -> Self {
        Self { future }
    }
}

impl<T, E, Fut: Future<Output = Result<T, E>>> Future for Attempting<Fut> {
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        self.project().future.poll(cx).map(Outcome::of)
    }
}

pin_project! {
    /// The only attempt of an operation that runs once.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct AttemptingOnce<Fut> {
        // `None` for a second attempt, by a policy that wrongly claims to be `AtMostOnce`.
        #[pin]
        attempt: Option<Attempting<Fut>>,
    }
}

impl<Fut> AttemptingOnce<Fut> {
    #[inline(always)]
    pub(super) fn new(future: Option<Fut>) -> Self {
        Self {
            attempt: future.map(Attempting::new),
        }
    }
}

impl<T, E, Fut: Future<Output = Result<T, E>>> Future for AttemptingOnce<Fut> {
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        match self.project().attempt.as_pin_mut() {
            Some(attempt) => attempt.poll(cx),
            None => Poll::Ready(already_attempted()),
        }
    }
}

/// Returns the outcome of a second attempt of an operation that runs once.
#[cold]
fn already_attempted<T, E>() -> Outcome<T, E> {
    Outcome::rejected(Rejected::new("call_once", Reason::NotRepeatable))
}

pin_project! {
    /// An attempt whose error carries its verdict.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct AttemptingClassified<Fut> {
        #[pin]
        future: Fut,
    }
}

impl<Fut> AttemptingClassified<Fut> {
    #[inline(always)]
    pub(super) const fn new(future: Fut) -> Self {
        Self { future }
    }
}

impl<T, E, Fut: Future<Output = Result<T, Classified<E>>>> Future for AttemptingClassified<Fut> {
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        Poll::Ready(match ready!(self.project().future.poll(cx)) {
            Ok(value) => Outcome::of(Ok(value)),
            Err(classified) => {
                let (error, verdict) = classified.into_parts();
                Outcome::new(Err(Error::Operation(error)), verdict)
            }
        })
    }
}

/// An attempt that calls an ordinary closure. It runs when polled, so that the deadline in force then applies.
pub struct AttemptingBlocking<'a, F> {
    closure: &'a F,
}

impl<'a, F> AttemptingBlocking<'a, F> {
    pub(super) const fn new(closure: &'a F) -> Self {
        Self { closure }
    }
}

impl<F> fmt::Debug for AttemptingBlocking<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptingBlocking").finish_non_exhaustive()
    }
}

impl<T, E, F: Fn() -> Result<T, E>> Future for AttemptingBlocking<'_, F> {
    type Output = Outcome<T, E>;

    fn poll(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        Poll::Ready(Outcome::of(blocking::outside(self.closure)))
    }
}
