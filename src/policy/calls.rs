//! The ways to call a policy.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context as TaskContext, Poll};

use super::attempt::Attempt;
use super::call::{Call, CallBlocking, CallClassified, CallOnce, CallWith, Source};
use super::classified::Classified;
use super::context::Context;
use super::describe::Describe;
use super::operation::{Operation, Run};
use super::outcome::Outcome;
use super::report::{Notes, Report, Reported};
use crate::clock::{BlockingClock, blocking};
use crate::error::Error;

/// A rule about how an operation is run, from the user's perspective. [`Run`] is the rule itself.
///
/// The trait has no type parameters: `(Timeout, Retry)` is a type to put into a struct field, and is a
/// policy for operations of every value and error.
///
/// # Generic code
///
/// A bound `P: Policy` does not say that `P` runs a given operation, so `call` does not compile with it. rustc 1.95
/// reports that as an overflow (E0275) without a line number:
///
/// ```compile_fail
/// use backstop::{Error, Policy};
///
/// // error[E0275]: overflow evaluating the requirement `Classify<_>: Relabel<Under<&_, _>>`
/// async fn get<P: Policy>(policy: &P) -> Result<u32, Error<std::io::Error>> {
///     policy.call(|| async { Ok(7) }).await
/// }
/// ```
///
/// A function that takes any policy and any closure has the bound [`P: Calls<F>`](super::Calls). So has a type that owns
/// its policy. A field for any policy is a [`BoxPolicy<T, E>`](super::BoxPolicy), or the type of the stack itself.
/// Code that allocates nothing [names its operation](crate::guide::recipes#a-service-that-is-generic-over-its-policy).
/// The trait is not dyn compatible: in place of `Box<dyn Policy>`, too, use `BoxPolicy`.
///
/// # Cancel safety
///
/// Dropping the future of a call, at any await, releases every permit, token, and place in a queue that the call
/// holds. The operation's own future is dropped first.
///
/// # Panics
///
/// Policies do not panic, except that tokio's timers need its runtime ([`TokioClock`](crate::TokioClock)). A panic of
/// the operation propagates, and everything that the call holds is released as on a drop.
pub trait Policy {
    /// Calls `op` under this rule, once for each attempt. Nothing happens before the first poll.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] with the operation's own error, that of the last attempt. Another variant if a policy
    /// intervened.
    fn call<'s, F, Fut, T, E>(&'s self, op: F) -> impl Future<Output = Result<T, Error<E>>>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        for<'b> &'s Self: Run<Call<'b, F>>,
    {
        async move {
            let source = Source::new(op);
            let run = pin!(self.run(Call(&source), Context::new()));
            ResultOf { run }.await
        }
    }

    /// Like [`call`](Self::call), but passes `op` its attempt number, the time left, and whether it is a hedge.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    fn call_with<'s, F, Fut, T, E>(&'s self, op: F) -> impl Future<Output = Result<T, Error<E>>>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        for<'b> &'s Self: Run<CallWith<'b, F>>,
    {
        async move {
            let source = Source::new(op);
            let run = pin!(self.run(CallWith(&source), Context::new()));
            ResultOf { run }.await
        }
    }

    /// Like [`call`](Self::call), for an operation that can run only once, such as one that sends a body it owns. Only
    /// for stacks whose policies attempt [at most once](AtMostOnce).
    ///
    /// A stack with a retry does not compile here:
    ///
    /// ```compile_fail
    /// use backstop::{Policy, Retry, Timeout};
    ///
    /// let stack = (Timeout::after(std::time::Duration::from_secs(1)), Retry::builder().build().unwrap());
    /// let body = vec![1, 2, 3];
    /// // error[E0277]: `Retry` may attempt an operation more than once
    /// let call = stack.call_once(|| async move { Ok::<_, ()>(body) });
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call). A policy that makes a second attempt although it claims to make one
    /// gets a rejection with [`Reason::NotRepeatable`](crate::Reason::NotRepeatable).
    fn call_once<'s, F, Fut, T, E>(&'s self, op: F) -> impl Future<Output = Result<T, Error<E>>>
    where
        Self: AtMostOnce,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        for<'b> &'s Self: Run<CallOnce<'b, F>>,
    {
        async move {
            let source = Source::new(Mutex::new(Some(op)));
            let cx = Context::new().with_repeatable(false);
            let run = pin!(self.run(CallOnce(&source), cx));
            ResultOf { run }.await
        }
    }

    /// Like [`call`](Self::call), for an operation that classifies its own errors, of whatever type.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::policy::Classified;
    /// use backstop::{ManualClock, Policy, Retry};
    ///
    /// let clock = ManualClock::new();
    /// let retry = Retry::builder().clock(clock.clone()).build()?;
    /// let attempts = std::cell::Cell::new(0);
    /// let result = clock.block_on(retry.call_classified(|| async {
    ///     attempts.set(attempts.get() + 1);
    ///     match attempts.get() {
    ///         1 => Err(Classified::transient("connection reset")),
    ///         _ => Err::<(), _>(Classified::permanent("no such user")),
    ///     }
    /// }));
    /// assert_eq!(result.unwrap_err().into_operation(), Some("no such user"));
    /// assert_eq!(attempts.get(), 2);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call): the error comes without its verdict.
    fn call_classified<'s, F, Fut, T, E>(
        &'s self,
        op: F,
    ) -> impl Future<Output = Result<T, Error<E>>>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Classified<E>>>,
        for<'b> &'s Self: Run<CallClassified<'b, F>>,
    {
        async move {
            let source = Source::new(op);
            let run = pin!(self.run(CallClassified(&source), Context::new()));
            ResultOf { run }.await
        }
    }

    /// Like [`call`](Self::call), but also returns the number of attempts, the time taken, and errors that the result
    /// does not show.
    ///
    /// Reads the policy's [`clock`](Describe::clock) at the start and at the end.
    fn call_reported<'s, F, Fut, T, E>(&'s self, op: F) -> impl Future<Output = Report<T, E>>
    where
        Self: Describe,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        for<'b> &'s Self: Run<Reported<'b, Call<'b, F>>>,
    {
        async move {
            let (source, notes) = (Source::new(op), Notes::new());
            let clock = self.clock().unwrap_or_else(|| BlockingClock.into());
            let mut cx = Context::new();
            let start = cx.now(&clock);
            let op = Call(&source);
            let (result, attempts, elapsed) = {
                let mut outcome = self.run(Reported::new(op, &notes), cx).await;
                let elapsed = outcome.finished(&clock).saturating_duration_since(start);
                (outcome.result, op.started(), elapsed)
            };
            Report::new(result, attempts, elapsed, &notes)
        }
    }

    /// Like [`call`](Self::call), for programs without a runtime: `op` is an ordinary closure, and waits park the
    /// thread.
    ///
    /// The same policies serve both: inside, tokio's clocks park the thread too. A closure cannot be cut off, so a
    /// timeout only keeps late attempts from starting. Real time passes, even where tokio's clock is paused. Calls
    /// may be nested, and `op`, hooks, classifiers, and observers may run a runtime of their own.
    ///
    /// Inside an async program use `spawn_blocking` around it. On a
    /// [`ManualClock`](crate::ManualClock) a wait ends when another thread moves it; for a test in one
    /// thread use [`block_on`](crate::ManualClock::block_on) and [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    fn call_blocking<'s, F, T, E>(&'s self, op: F) -> Result<T, Error<E>>
    where
        F: Fn() -> Result<T, E>,
        for<'b> &'s Self: Run<CallBlocking<'b, F>>,
    {
        let source = Source::new(op);
        // Started when it is polled, so that a deadline in force then applies to all of it.
        let call = async { self.run(CallBlocking(&source), Context::new()).await.result };
        blocking::block_on(call)
    }
}

/// A policy that starts the operation at most once per call. Such stacks accept operations that can run only once
/// ([`Policy::call_once`]).
#[diagnostic::on_unimplemented(
    message = "`{Self}` may attempt an operation more than once",
    note = "`call_once` needs policies that attempt at most once; use `call` with a closure that can run again"
)]
pub trait AtMostOnce {}

/// Awaits the pinned run of a policy in place, and takes the result out of the outcome.
///
/// `.await` on the run itself would move it twice. The run of a stack has about 500 bytes that were just written
/// by narrow stores, so wide loads stall on them and moving takes longer than creating it.
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
