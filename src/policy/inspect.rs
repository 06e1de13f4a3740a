//! Inspecting errors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::attempt::Attempt;
use super::calls::{AtMostOnce, Policy};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::operation::{Operation, Run};
use super::outcome::Outcome;
use crate::blocking;
use crate::error::Error;

/// Passes the operation's errors to a function on their way out, and changes nothing.
///
/// Its position decides what it sees: inside a retry every attempt, outside of it the last one. The attempt number
/// distinguishes them.
///
/// Its type contains the closure's type, so the notes of [`Classify`](super::Classify) about types with lifetimes
/// apply.
///
/// # Example
///
/// ```
/// use backstop::policy::Inspect;
/// use backstop::{ManualClock, Policy, Retry};
///
/// let clock = ManualClock::new();
/// let stack = (
///     Retry::builder().clock(clock.clone()).build()?,
///     Inspect::errors(|error: &String, attempt| eprintln!("attempt {}: {error}", attempt.number())),
/// );
/// let _ = clock.block_on(stack.call(|| async { Err::<(), _>("down".to_owned()) }));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Inspect<F> {
    look: F,
}

impl<F> Inspect<F> {
    /// Calls `look` with each error of the operation and the attempt it comes from.
    pub const fn errors<E>(look: F) -> Self
    where
        F: Fn(&E, Attempt),
    {
        Self { look }
    }
}

impl<F> fmt::Debug for Inspect<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspect").finish_non_exhaustive()
    }
}

impl<F> Policy for Inspect<F> {}

impl<F> AtMostOnce for Inspect<F> {}

impl<F> Describe for Inspect<F> {
    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Inspect);
    }
}

impl<'a, F, Op> Run<Op> for &'a Inspect<F>
where
    F: Fn(&Op::Error, Attempt),
    Op: Operation,
{
    type Future = Inspecting<'a, F, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Inspecting<'a, F, Op> {
        Inspecting {
            attempt: op.attempt(cx),
            look: &self.look,
            cx,
        }
    }
}

pin_project! {
    /// A run of an [`Inspect`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Inspecting<'a, F, Op: Operation> {
        #[pin]
        attempt: Op::Attempt,
        look: &'a F,
        cx: Context,
    }
}

impl<F, Op> Future for Inspecting<'_, F, Op>
where
    F: Fn(&Op::Error, Attempt),
    Op: Operation,
{
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.attempt.poll(task));
        if let Err(Error::Operation(error)) = &outcome.result {
            blocking::outside(|| (this.look)(error, Attempt::new(*this.cx)));
        }
        Poll::Ready(outcome)
    }
}

impl<F, Op: Operation> fmt::Debug for Inspecting<'_, F, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspecting").finish_non_exhaustive()
    }
}
