//! The spine: what a policy is, and how policies stack.
//!
//! A [`Policy`] is a rule about how an [`Operation`] is run. A tuple of policies is a policy: the
//! first is the outermost. `&P`, `Arc<P>` and `Option<P>` are policies too; `None` passes calls
//! through, which makes a switch for configuration.
//!
//! ```text
//!            call(|| ...)                                   Result<T, Error<E>>
//!                 │                                                ▲
//!   Context ──►  Timeout ──► Retry ──► Timeout ──► operation ──► Outcome
//!   (deadline, attempt, ...)    ▲________________________│   (result, verdict)
//! ```
//!
//! # A policy of your own
//!
//! ```
//! use backstop::{Context, Operation, Outcome, Policy};
//!
//! /// Counts the attempts that failed.
//! struct CountFailures(std::sync::atomic::AtomicU32);
//!
//! impl<T, E> Policy<T, E> for CountFailures {
//!     async fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> Outcome<T, E> {
//!         let outcome = op.attempt(cx).await;
//!         if outcome.result.is_err() {
//!             self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
//!         }
//!         outcome
//!     }
//! }
//! # let policy = CountFailures(0.into());
//! # let result = policy.call_blocking(|| Err::<(), _>("no"));
//! # assert!(result.is_err() && policy.0.into_inner() == 1);
//! ```

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll};

use crate::clock::{BlockingClock, ClockHandle, blocking};
use crate::error::Error;
use crate::event::Listener;

mod check;
mod classify;
mod context;
mod either;
mod operation;
mod outcome;
mod pipeline;
mod report;
mod tuple;
mod unwind;

pub use self::check::{Layer, Misorder};
pub use self::classify::{Classify, ClassifyErrors};
pub use self::context::{Attempt, Context};
pub use self::outcome::Outcome;
pub use self::pipeline::{CallOptions, Pipeline, With};
pub use self::report::Report;
#[doc(no_inline)]
pub use crate::priority::Priority;
#[doc(no_inline)]
pub use crate::verdict::{ErrorClass, Health, RetryAdvice, Verdict};

pub(crate) use self::unwind::OnUnwind;

use self::either::Either;
use self::operation::{Call, CallWith, Counted};

/// Something that can be attempted any number of times: a small handle of a few references.
///
/// Policies receive one and attempt it; those who use policies pass closures to
/// [`Policy::call`] and never see it.
///
/// `attempt` takes the handle by value. Together with the opaque future this keeps a whole stack
/// `Send` where its operation is, with no `Send` bound anywhere: operations that are not `Send` work
/// on a local executor.
pub trait Operation<T, E>: Copy {
    /// Who listens to the calls of this operation.
    type Listener: Listener;

    /// Whether an attempt may look at the times in its context. Where it does not, a layer that has
    /// waited need not read the clock for it.
    const LOOKS_AT_TIME: bool = true;

    /// Makes one attempt. It may begin at once; poll the future soon, or drop it.
    fn attempt(self, cx: Context) -> impl Future<Output = Outcome<T, E>>;

    /// Who listens to this call. A policy that wraps the operation into one of its own passes this
    /// on.
    fn listener(self) -> Self::Listener;
}

/// A rule about how an operation is run.
///
/// Policies that do not look into results implement it for all `T` and `E`, and so stay free of
/// type parameters: `(Timeout, Retry)` is a type to put into a struct field.
///
/// # Cancel safety
///
/// Dropping the future of a call, at any await, gives back every permit, token and place that the
/// call holds. The operation's own future is dropped with it.
///
/// # Panics
///
/// Policies do not panic, but that tokio's timers need its runtime
/// ([`TokioClock`](crate::TokioClock)). A panic of the operation passes through, and what the call
/// holds is given back as on a drop.
pub trait Policy<T, E> {
    /// Runs an operation under this rule. For authors of policies: ten lines of `async fn` make one.
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>>;

    /// Calls `op` under this rule, once for each attempt. Nothing happens before the first poll.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] with the operation's own error, that of the last attempt. Any other
    /// variant when a policy stepped in.
    fn call<F, Fut>(&self, op: F) -> impl Future<Output = Result<T, Error<E>>>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        async move {
            let run = pin!(self.run(Call(&op), Context::new()));
            ResultOf { run }.await
        }
    }

    /// As [`call`](Self::call), but `op` learns which attempt it is, how long it has left, and
    /// whether it is a hedge.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    fn call_with<F, Fut>(&self, op: F) -> impl Future<Output = Result<T, Error<E>>>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        async move {
            let run = pin!(self.run(CallWith(&op), Context::new()));
            ResultOf { run }.await
        }
    }

    /// As [`call`](Self::call), but the result comes with the number of attempts and the time
    /// taken.
    ///
    /// Reads the policy's [`clock`](Self::clock) at the start and at the end.
    fn call_reported<F, Fut>(&self, op: F) -> impl Future<Output = Report<T, E>>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        async move {
            let attempts = AtomicU32::new(0);
            let clock = self.clock().unwrap_or_else(|| BlockingClock.into());
            let mut cx = Context::new();
            let start = cx.now(&clock);
            let mut outcome = self.run(Counted::new(Call(&op), &attempts), cx).await;
            let elapsed = outcome.finished(&clock).saturating_duration_since(start);
            Report::new(outcome.result, attempts.load(Ordering::Relaxed), elapsed)
        }
    }

    /// As [`call`](Self::call) for programs without a runtime: `op` is an ordinary closure, and
    /// waits park the thread.
    ///
    /// The same policies serve both: inside, tokio's clocks park the thread as well. A closure
    /// cannot be cut off, so a timeout only keeps late attempts from starting. Real time passes,
    /// also where tokio's clock is paused. Calls nest, and `op` may run a runtime of its own.
    ///
    /// Inside an async program use `spawn_blocking` around it. On a
    /// [`ManualClock`](crate::ManualClock) a wait ends when another thread moves it; for a test in one
    /// thread use [`block_on`](crate::ManualClock::block_on) and [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    fn call_blocking<F>(&self, op: F) -> Result<T, Error<E>>
    where
        F: Fn() -> Result<T, E>,
    {
        // Lazily: what is in force while an operation is polled, such as a deadline, is so for this one.
        blocking::block_on(self.call(|| async { blocking::outside(&op) }))
    }

    /// The clock this policy reads, if it reads one; of a stack, the outermost one.
    fn clock(&self) -> Option<ClockHandle> {
        None
    }

    /// Describes the layers of this policy, outermost first, for
    /// [`Pipeline::check`](crate::Pipeline::check).
    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Other);
    }
}

/// Awaits the run of a policy where it stands, and takes the result out of the outcome.
///
/// `.await` on the run itself would move it, twice: that of a stack is some 500 bytes, fresh out of
/// narrow stores, and moving it takes longer than making it.
struct ResultOf<'a, Fut> {
    run: Pin<&'a mut Fut>,
}

impl<T, E, Fut: Future<Output = Outcome<T, E>>> Future for ResultOf<'_, Fut> {
    type Output = Result<T, Error<E>>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.run.as_mut().poll(cx) {
            Poll::Ready(outcome) => match outcome.result {
                Ok(value) => Poll::Ready(Ok(value)),
                Err(error) => Poll::Ready(Err(error)),
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T, E, P: Policy<T, E> + ?Sized> Policy<T, E> for &P {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        (**self).run(op, cx)
    }

    fn clock(&self) -> Option<ClockHandle> {
        (**self).clock()
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        (**self).describe(layers);
    }
}

impl<T, E, P: Policy<T, E> + ?Sized> Policy<T, E> for Arc<P> {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        (**self).run(op, cx)
    }

    fn clock(&self) -> Option<ClockHandle> {
        (**self).clock()
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        (**self).describe(layers);
    }
}

/// `None` passes every call through: a switch for configuration.
impl<T, E, P: Policy<T, E>> Policy<T, E> for Option<P> {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        match self {
            Some(policy) => Either::Left {
                future: policy.run(op, cx),
            },
            None => Either::Right {
                future: op.attempt(cx),
            },
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        self.as_ref().and_then(Policy::clock)
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        if let Some(policy) = self {
            policy.describe(layers);
        }
    }
}
