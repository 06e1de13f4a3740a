//! Policies whose type is erased.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::attempt::Attempt;
use super::call::{Attempting, AttemptingBlocking, AttemptingClassified, AttemptingOnce, Source};
use super::classified::Classified;
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::operation::{Operation, Run, forward_attempts};
use super::outcome::Outcome;
use super::report::{Notes, Report};
use crate::clock::{BlockingClock, ClockHandle, blocking};
use crate::error::Error;
use crate::sync::lock;

/// A policy with its type erased, for operations that return `Result<T, E>`. Use it in fields and registries.
///
/// Its futures are `Send`. A call allocates twice, for its own future and for that of the attempt, and once more for
/// each further attempt. Cheap to clone; clones are the same policy.
///
/// Calls are inherent methods, and it cannot be an element of a tuple.
///
/// Code that is generic over the policies it boxes needs the bound [`Boxable<T, E>`](Boxable):
///
/// ```
/// use backstop::BoxPolicy;
/// use backstop::policy::Boxable;
///
/// struct Client { policy: BoxPolicy<String, std::io::Error> }
///
/// impl Client {
///     fn new(policy: impl Boxable<String, std::io::Error>) -> Self {
///         Self { policy: BoxPolicy::new(policy) }
///     }
/// }
/// ```
///
/// # Example
///
/// ```
/// use std::collections::HashMap;
/// use std::time::Duration;
/// use backstop::{BoxPolicy, Retry, Timeout};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut hosts: HashMap<&str, BoxPolicy<String, std::io::Error>> = HashMap::new();
/// let second = Duration::from_secs(1);
/// hosts.insert("a.example", BoxPolicy::new(Timeout::after(second)));
/// hosts.insert("b.example", BoxPolicy::new((Timeout::after(second), Retry::builder().build()?)));
///
/// let task = tokio::spawn(async move { hosts["b.example"].call(|| async { Ok("hello".into()) }).await });
/// assert_eq!(task.await??, "hello");
/// # Ok(())
/// # }
/// ```
pub struct BoxPolicy<T, E> {
    policy: Arc<dyn Boxable<T, E>>,
}

impl<T: 'static, E: 'static> BoxPolicy<T, E> {
    /// Erases the type of `policy`.
    pub fn new<P>(policy: P) -> Self
    where
        P: Boxable<T, E>,
    {
        Self {
            policy: Arc::new(policy),
        }
    }

    /// Like [`Policy::call`](super::Policy::call).
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`](super::Policy::call).
    pub async fn call<F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let attempt = |_| Box::pin(Attempting::new(op())) as BoxAttempt<'_, T, E>;
        let source = Source::new(Parts::new(&attempt));
        let run = self.policy.run(BoxOperation(&source), Context::new());
        run.await.result
    }

    /// Like [`Policy::call_with`](super::Policy::call_with).
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`](super::Policy::call).
    pub async fn call_with<F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        F: Fn(Attempt) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let attempt = |cx| {
            let future = op(Attempt::new(cx));
            Box::pin(Attempting::new(future)) as BoxAttempt<'_, T, E>
        };
        let source = Source::new(Parts::new(&attempt));
        let run = self.policy.run(BoxOperation(&source), Context::new());
        run.await.result
    }

    /// Like [`Policy::call_once`](super::Policy::call_once), for any policy, because the type does not show whether
    /// it attempts more than once. The call is not [repeatable](super::CallOptions::repeatable), so a retry inside
    /// repeats it only if it was rejected before it started, and a hedge makes no copy.
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`](super::Policy::call). A policy of your own that makes a second attempt of a call
    /// that is not repeatable gets a rejection with [`Reason::NotRepeatable`](crate::Reason::NotRepeatable).
    pub async fn call_once<F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let op = Mutex::new(Some(op));
        let attempt = |_| {
            // Takes the operation under the lock and calls it outside, because it is user code.
            let op = lock(&op).take();
            Box::pin(AttemptingOnce::new(op.map(|op| op()))) as BoxAttempt<'_, T, E>
        };
        let source = Source::new(Parts::new(&attempt));
        let cx = Context::new().with_repeatable(false);
        self.policy.run(BoxOperation(&source), cx).await.result
    }

    /// Like [`Policy::call_classified`](super::Policy::call_classified).
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`](super::Policy::call).
    pub async fn call_classified<F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Classified<E>>> + Send,
    {
        let attempt = |_| Box::pin(AttemptingClassified::new(op())) as BoxAttempt<'_, T, E>;
        let source = Source::new(Parts::new(&attempt));
        let run = self.policy.run(BoxOperation(&source), Context::new());
        run.await.result
    }

    /// Like [`Policy::call_reported`](super::Policy::call_reported).
    pub async fn call_reported<F, Fut>(&self, op: F) -> Report<T, E>
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        let notes = Notes::new();
        let attempt = |_| Box::pin(Attempting::new(op())) as BoxAttempt<'_, T, E>;
        let discard = |error| notes.keep(error);
        let source = Source::new(Parts {
            attempt: &attempt,
            discard: Some(&discard),
        });
        let clock = self.clock().unwrap_or_else(|| BlockingClock.into());
        let mut cx = Context::new();
        let start = cx.now(&clock);
        let op = BoxOperation(&source);
        let mut outcome = self.policy.run(op, cx).await;
        let elapsed = outcome.finished(&clock).saturating_duration_since(start);
        Report::new(outcome.result, op.started(), elapsed, &notes)
    }

    /// Like [`Policy::call_blocking`](super::Policy::call_blocking).
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`](super::Policy::call).
    pub fn call_blocking<F>(&self, op: F) -> Result<T, Error<E>>
    where
        F: Fn() -> Result<T, E> + Send + Sync,
    {
        let attempt = |_| Box::pin(AttemptingBlocking::new(&op)) as BoxAttempt<'_, T, E>;
        let source = Source::new(Parts::new(&attempt));
        let call = async {
            let run = self.policy.run(BoxOperation(&source), Context::new());
            run.await.result
        };
        blocking::block_on(call)
    }
}

impl<T, E> Describe for BoxPolicy<T, E> {
    fn clock(&self) -> Option<ClockHandle> {
        self.policy.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.policy.describe(layers);
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        self.policy.clocks(clocks);
    }
}

impl<T, E> Clone for BoxPolicy<T, E> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
        }
    }
}

impl<T, E> fmt::Debug for BoxPolicy<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layers = Vec::new();
        self.describe(&mut layers);
        f.debug_struct("BoxPolicy")
            .field("layers", &layers)
            .finish()
    }
}

type BoxFuture<'a, O> = Pin<Box<dyn Future<Output = O> + Send + 'a>>;
type BoxAttempt<'a, T, E> = BoxFuture<'a, Outcome<T, E>>;
type Attempts<'a, T, E> = dyn Fn(Context) -> BoxAttempt<'a, T, E> + Send + Sync + 'a;
type Discards<'a, E> = dyn Fn(Error<E>) + Send + Sync + 'a;

/// A policy that [`BoxPolicy::new`] takes: any whose futures are `Send` for operations that return
/// `Result<T, E>`. Implemented for all of them; there is nothing to implement.
// This is a separate trait, because with a bound on references to a type that is yet to be inferred, the compiler would
// search all policies of policies.
pub trait Boxable<T, E>: Describe + Send + Sync + 'static {
    /// Runs the operation under this policy.
    fn run<'a>(
        &'a self,
        op: BoxOperation<'a, T, E>,
        cx: Context,
    ) -> Pin<Box<dyn Future<Output = Outcome<T, E>> + Send + 'a>>;
}

impl<P, T: 'static, E: 'static> Boxable<T, E> for P
where
    P: Describe + Send + Sync + 'static,
    for<'a, 'b> &'a P: Run<BoxOperation<'b, T, E>, Future: Send>,
{
    fn run<'a>(&'a self, op: BoxOperation<'a, T, E>, cx: Context) -> BoxFuture<'a, Outcome<T, E>> {
        // Starts the call when the future is polled, so that a deadline in force then applies to all of it.
        Box::pin(async move { Run::run(self, op, cx).await })
    }
}

/// An operation whose attempts are boxed: that of a [`BoxPolicy`].
pub struct BoxOperation<'a, T, E>(&'a Source<Parts<'a, T, E>>);

/// Makes attempts, and receives errors that the caller does not see.
pub(super) struct Parts<'a, T, E> {
    attempt: &'a Attempts<'a, T, E>,
    discard: Option<&'a Discards<'a, E>>,
}

impl<'a, T, E> Parts<'a, T, E> {
    const fn new(attempt: &'a Attempts<'a, T, E>) -> Self {
        Self {
            attempt,
            discard: None,
        }
    }
}

// Not derived: the derive would require `T: Copy`.
impl<T, E> Clone for BoxOperation<'_, T, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, E> Copy for BoxOperation<'_, T, E> {}

impl<T, E> fmt::Debug for BoxOperation<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxOperation").finish_non_exhaustive()
    }
}

impl<'a, T, E> Operation for BoxOperation<'a, T, E> {
    type Value = T;
    type Error = E;
    type Attempt = BoxAttempt<'a, T, E>;
    type Listener = ();

    fn attempt(self, cx: Context) -> BoxAttempt<'a, T, E> {
        (self.0.start().attempt)(cx)
    }

    fn listener(self) {}

    forward_attempts!(0.attempts);

    fn discard(self, error: Error<E>) {
        match self.0.closure().discard {
            Some(discard) => discard(error),
            None => drop(error),
        }
    }
}
