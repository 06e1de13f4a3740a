//! Classifiers: policies that assign verdicts to results.

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
use crate::keyed::stateless;
use crate::verdict::Verdict;

/// Assigns verdicts to results, for all layers outside it in the stack.
///
/// It is a policy that runs the operation and replaces the verdict on the way out. Usually it is the
/// innermost element of the tuple. With a second one further out, for example, the retry and the breaker
/// see different verdicts. Without any, `Ok` is a success and `Err` is transient.
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
/// Its type contains the closure's type. A function pointer makes it nameable:
/// `Classify<fn(Result<&Response, &Error<HttpError>>) -> Verdict>`, or
/// `ClassifyErrors<fn(&HttpError) -> Verdict>`. For an error with a lifetime, the function must accept any:
/// `ClassifyErrors<for<'a, 'b> fn(&'a Box<dyn Error + Send + Sync + 'b>) -> Verdict>`, also in the cast of
/// the function.
///
/// # In spawned tasks
///
/// The closure's type names the value or the error type. If that type has a lifetime, such as
/// `Box<dyn Error + Send + Sync>` or `&'static str`, a call through an inline closure does not compile
/// inside `tokio::spawn` or an axum handler ("implementation of `FnOnce` is not general enough", or "one type is more
/// general than the other"). There are three solutions: an error type of your own; [`call_classified`](super::Policy::call_classified), where the
/// operation's error carries its verdict; or a classifier for any lifetime, bound by `let` or an `fn`:
///
/// ```
/// use std::error::Error as StdError;
/// use backstop::{Classify, Policy, Timeout, Verdict};
///
/// fn verdict(error: &Box<dyn StdError + Send + Sync + '_>) -> Verdict {
///     match error.to_string().contains("reset") {
///         true => Verdict::transient(),
///         false => Verdict::permanent(),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let task = tokio::spawn(async {
///     let stack = (Timeout::after(std::time::Duration::from_secs(1)), Classify::errors(verdict));
///     stack.call(|| async { Ok::<_, Box<dyn StdError + Send + Sync>>(7) }).await.is_ok()
/// });
/// assert!(task.await.unwrap());
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Classify<F> {
    verdict_of: F,
}

/// Assigns verdicts to results, depending on the attempt. Returned by [`Classify::by_attempt`].
#[derive(Clone, Copy)]
pub struct ClassifyAttempts<F> {
    verdict_of: F,
}

/// Assigns verdicts to the operation's own errors. Returned by [`Classify::errors`].
#[derive(Clone, Copy)]
pub struct ClassifyErrors<F> {
    verdict_of: F,
}

/// Decides which of the operation's own errors are retried. Returned by [`Classify::retry_if`].
#[derive(Clone, Copy)]
pub struct RetryIf<F> {
    retry: F,
}

stateless!(Classify<F>);
stateless!(ClassifyAttempts<F>);
stateless!(ClassifyErrors<F>);
stateless!(RetryIf<F>);

impl<F> Classify<F> {
    /// Calls `verdict_of` with every result from inside, including values, timeouts, and rejections.
    ///
    /// [`Verdict::default_for`] is the verdict without a classifier.
    pub const fn by<T, E>(verdict_of: F) -> Self
    where
        F: Fn(Result<&T, &Error<E>>) -> Verdict,
    {
        Self { verdict_of }
    }

    /// Like [`by`](Self::by), but also passes the attempt: its number, and the time it had left.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::policy::Attempt;
    /// use backstop::{Classify, Error, ManualClock, Policy, Retry, Verdict};
    ///
    /// let clock = ManualClock::new();
    /// let stack = (
    ///     Retry::builder().max_attempts(5).clock(clock.clone()).build()?,
    ///     // Not found yet, perhaps: worth one more look.
    ///     Classify::by_attempt(|result: Result<&u16, &Error<()>>, attempt: Attempt| match result {
    ///         Ok(404) if attempt.number() == 1 => Verdict::transient(),
    ///         result => Verdict::default_for(result),
    ///     }),
    /// );
    /// let report = clock.block_on(stack.call_reported(|| async { Ok(404) }));
    /// assert_eq!((report.result, report.attempts), (Ok(404), 2));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn by_attempt<T, E>(verdict_of: F) -> ClassifyAttempts<F>
    where
        F: Fn(Result<&T, &Error<E>>, Attempt) -> Verdict,
    {
        ClassifyAttempts { verdict_of }
    }

    /// Calls `verdict_of` with the operation's own errors, and keeps all other verdicts.
    pub const fn errors<E>(verdict_of: F) -> ClassifyErrors<F>
    where
        F: Fn(&E) -> Verdict,
    {
        ClassifyErrors { verdict_of }
    }

    /// Calls `retry` to decide whether an error of the operation is worth another attempt. The health in the verdict
    /// stays: without another classifier, unhealthy.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Classify, ManualClock, Policy, Retry};
    /// use std::io::{Error, ErrorKind};
    ///
    /// let clock = ManualClock::new();
    /// let stack = (
    ///     Retry::builder().clock(clock.clone()).build()?,
    ///     Classify::retry_if(|error: &Error| error.kind() != ErrorKind::NotFound),
    /// );
    /// let report = clock.block_on(stack.call_reported(|| async {
    ///     Err::<(), _>(Error::from(ErrorKind::NotFound))
    /// }));
    /// assert_eq!(report.attempts, 1);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn retry_if<E>(retry: F) -> RetryIf<F>
    where
        F: Fn(&E) -> bool,
    {
        RetryIf { retry }
    }
}

/// Changes the verdict of an outcome.
pub trait Relabel<Op: Operation> {
    /// The part of the attempt's context that the classifier reads. Usually empty, so that futures stay small.
    type Note: Copy;

    /// Takes the note at the start of the attempt.
    fn note(cx: Context) -> Self::Note;

    /// Changes the verdict in place.
    fn relabel(&self, note: Self::Note, outcome: &mut Outcome<Op::Value, Op::Error>);
}

impl<F, Op> Relabel<Op> for Classify<F>
where
    F: Fn(Result<&Op::Value, &Error<Op::Error>>) -> Verdict,
    Op: Operation,
{
    type Note = ();

    #[inline(always)]
    fn note(_: Context) {}

    #[inline(always)]
    fn relabel(&self, (): (), outcome: &mut Outcome<Op::Value, Op::Error>) {
        let verdict = blocking::outside(|| (self.verdict_of)(outcome.result.as_ref()));
        outcome.verdict = verdict;
    }
}

impl<F, Op> Relabel<Op> for ClassifyAttempts<F>
where
    F: Fn(Result<&Op::Value, &Error<Op::Error>>, Attempt) -> Verdict,
    Op: Operation,
{
    type Note = Context;

    #[inline(always)]
    fn note(cx: Context) -> Context {
        cx
    }

    #[inline(always)]
    fn relabel(&self, cx: Context, outcome: &mut Outcome<Op::Value, Op::Error>) {
        let attempt = Attempt::new(cx);
        let verdict = blocking::outside(|| (self.verdict_of)(outcome.result.as_ref(), attempt));
        outcome.verdict = verdict;
    }
}

impl<F, Op> Relabel<Op> for ClassifyErrors<F>
where
    F: Fn(&Op::Error) -> Verdict,
    Op: Operation,
{
    type Note = ();

    #[inline(always)]
    fn note(_: Context) {}

    #[inline(always)]
    fn relabel(&self, (): (), outcome: &mut Outcome<Op::Value, Op::Error>) {
        if let Err(Error::Operation(error)) = &outcome.result {
            outcome.verdict = blocking::outside(|| (self.verdict_of)(error));
        }
    }
}

impl<F, Op> Relabel<Op> for RetryIf<F>
where
    F: Fn(&Op::Error) -> bool,
    Op: Operation,
{
    type Note = ();

    #[inline(always)]
    fn note(_: Context) {}

    #[inline(always)]
    fn relabel(&self, (): (), outcome: &mut Outcome<Op::Value, Op::Error>) {
        if let Err(Error::Operation(error)) = &outcome.result {
            let retry = blocking::outside(|| (self.retry)(error));
            outcome.verdict = outcome.verdict.with_retry(retry);
        }
    }
}

macro_rules! classifiers {
    ($($name:ident)*) => {$(
        impl<F> std::fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl<F> Policy for $name<F> {}

        impl<F> AtMostOnce for $name<F> {}

        impl<'a, F, Op: Operation> Run<Op> for &'a $name<F>
        where
            $name<F>: Relabel<Op>,
        {
            type Future = Classifying<'a, $name<F>, Op>;

            #[inline(always)]
            fn run(self, op: Op, cx: Context) -> Self::Future {
                Classifying {
                    note: $name::<F>::note(cx),
                    attempt: op.attempt(cx),
                    classifier: self,
                }
            }
        }

        impl<F> Describe for $name<F> {
            fn describe(&self, layers: &mut Vec<LayerKind>) {
                layers.push(LayerKind::Classify);
            }
        }
    )*};
}

classifiers! { Classify ClassifyAttempts ClassifyErrors RetryIf }

pin_project! {
    /// The state of a classified attempt.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Classifying<'a, C: Relabel<Op>, Op: Operation> {
        note: C::Note,
        #[pin]
        attempt: Op::Attempt,
        classifier: &'a C,
    }
}

impl<C: Relabel<Op>, Op: Operation> Future for Classifying<'_, C, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut outcome = ready!(this.attempt.poll(cx));
        this.classifier.relabel(*this.note, &mut outcome);
        Poll::Ready(outcome)
    }
}

impl<C: Relabel<Op>, Op: Operation> std::fmt::Debug for Classifying<'_, C, Op> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifying").finish_non_exhaustive()
    }
}
