//! Saying what results mean.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::{Context, Layer, Operation, Outcome, Policy, Verdict};
use crate::error::Error;
use crate::keyed::stateless;

/// Says what results mean, for everything outside it in the stack.
///
/// It is a policy that runs the operation and replaces the verdict on the way out. Usually it is the
/// innermost element of the tuple; a second one further out makes, say, the retry and the breaker
/// see different things. Without any, `Ok` is a success and `Err` is transient.
///
/// # Example
///
/// ```
/// use backstop::{Classify, Error, ManualClock, Policy, Retry, Verdict};
///
/// enum HttpError { Status(u16), Connect }
///
/// let clock = ManualClock::new();
/// let stack = (
///     Retry::builder().clock(clock.clone()).build()?,
///     Classify::errors(|error: &HttpError| match error {
///         HttpError::Status(429) => Verdict::throttled(None),
///         HttpError::Status(400..500) => Verdict::permanent(),
///         HttpError::Status(_) => Verdict::transient(),
///         HttpError::Connect => Verdict::transient().not_executed(),
///     }),
/// );
///
/// // The caller's fault: not repeated.
/// let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(HttpError::Status(404)) }));
/// assert_eq!(report.attempts, 1);
/// let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>(HttpError::Connect) }));
/// assert_eq!(report.attempts, 3);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
///
/// # In a struct field
///
/// Its type has the closure's type in it. A function pointer gives it a name:
/// `Classify<fn(Result<&Response, &Error<HttpError>>) -> Verdict>`, or
/// `ClassifyErrors<fn(&HttpError) -> Verdict>`.
#[derive(Clone, Copy)]
pub struct Classify<F> {
    verdict_of: F,
}

/// Says what the operation's own errors mean. Made by [`Classify::errors`].
#[derive(Clone, Copy)]
pub struct ClassifyErrors<F> {
    verdict_of: F,
}

stateless!(Classify<F>);
stateless!(ClassifyErrors<F>);

impl<F> Classify<F> {
    /// Asks `verdict_of` about every result that comes from inside, values, timeouts and refusals
    /// included.
    ///
    /// [`Verdict::default_for`] is the verdict for results you have no opinion on.
    pub const fn by<T, E>(verdict_of: F) -> Self
    where
        F: Fn(Result<&T, &Error<E>>) -> Verdict,
    {
        Self { verdict_of }
    }

    /// Asks `verdict_of` about the operation's own errors and leaves all other verdicts alone.
    pub const fn errors<E>(verdict_of: F) -> ClassifyErrors<F>
    where
        F: Fn(&E) -> Verdict,
    {
        ClassifyErrors { verdict_of }
    }
}

impl<F> std::fmt::Debug for Classify<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classify").finish_non_exhaustive()
    }
}

impl<F> std::fmt::Debug for ClassifyErrors<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifyErrors").finish_non_exhaustive()
    }
}

impl<T, E, F> Policy<T, E> for Classify<F>
where
    F: Fn(Result<&T, &Error<E>>) -> Verdict,
{
    #[inline(always)]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        Classifying {
            attempt: op.attempt(cx),
            relabel: |outcome: &mut Outcome<T, E>| {
                outcome.verdict = (self.verdict_of)(outcome.result.as_ref());
            },
        }
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Classify);
    }
}

impl<T, E, F> Policy<T, E> for ClassifyErrors<F>
where
    F: Fn(&E) -> Verdict,
{
    #[inline(always)]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        Classifying {
            attempt: op.attempt(cx),
            relabel: |outcome: &mut Outcome<T, E>| {
                if let Err(Error::Operation(error)) = &outcome.result {
                    outcome.verdict = (self.verdict_of)(error);
                }
            },
        }
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Classify);
    }
}

pin_project! {
    struct Classifying<Fut, R> {
        #[pin]
        attempt: Fut,
        relabel: R,
    }
}

impl<T, E, Fut, R> Future for Classifying<Fut, R>
where
    Fut: Future<Output = Outcome<T, E>>,
    R: Fn(&mut Outcome<T, E>),
{
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let this = self.project();
        let mut outcome = ready!(this.attempt.poll(cx));
        (this.relabel)(&mut outcome);
        Poll::Ready(outcome)
    }
}
