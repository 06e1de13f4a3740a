//! Closures as operations.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::{Attempt, Context, Operation, Outcome};

/// A closure that takes nothing.
pub(super) struct Call<'a, F>(pub(super) &'a F);

/// A closure that wants to know which attempt it is.
pub(super) struct CallWith<'a, F>(pub(super) &'a F);

/// Counts how often an operation is started.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a, Op> {
    op: Op,
    attempts: &'a AtomicU32,
}

// Derived, these would ask for `F: Copy`.
impl<F> Clone for Call<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Call<'_, F> {}
impl<F> Clone for CallWith<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for CallWith<'_, F> {}

impl<'a, Op> Counted<'a, Op> {
    pub(super) const fn new(op: Op, attempts: &'a AtomicU32) -> Self {
        Self { op, attempts }
    }
}

impl<T, E, F, Fut> Operation<T, E> for Call<'_, F>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Listener = ();

    const LOOKS_AT_TIME: bool = false;

    #[inline(always)]
    fn attempt(self, _: Context) -> impl Future<Output = Outcome<T, E>> {
        Attempting { future: (self.0)() }
    }

    fn listener(self) {}
}

impl<T, E, F, Fut> Operation<T, E> for CallWith<'_, F>
where
    F: Fn(Attempt) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Listener = ();

    #[inline(always)]
    fn attempt(self, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        Attempting {
            future: (self.0)(Attempt::new(cx)),
        }
    }

    fn listener(self) {}
}

impl<T, E, Op: Operation<T, E>> Operation<T, E> for Counted<'_, Op> {
    type Listener = Op::Listener;

    const LOOKS_AT_TIME: bool = Op::LOOKS_AT_TIME;

    fn attempt(self, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.op.attempt(cx)
    }

    #[inline(always)]
    fn listener(self) -> Op::Listener {
        self.op.listener()
    }
}

pin_project! {
    /// The operation's future; gives its result the verdict it has without a classifier.
    struct Attempting<Fut> {
        #[pin]
        future: Fut,
    }
}

impl<T, E, Fut: Future<Output = Result<T, E>>> Future for Attempting<Fut> {
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        self.project().future.poll(cx).map(Outcome::of)
    }
}
