//! Policies without a type.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::call::{Attempting, AttemptingClassified};
use super::classified::Classified;
use super::context::{Attempt, Context};
use super::operation::{Operation, Run, Tried};
use super::outcome::Outcome;
use crate::error::Error;

/// Any policy for operations that return `Result<T, E>`, without its type: for fields and registries.
///
/// Its futures are `Send`. A call allocates twice, for its own future and that of the attempt, and once
/// more for each further attempt. Cheap to clone; clones are the same policy.
///
/// It has the calls as methods of its own, and is no element of a tuple.
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
    /// Hides the type of `policy`.
    pub fn new<P>(policy: P) -> Self
    where
        P: Boxable<T, E> + 'static,
    {
        Self {
            policy: Arc::new(policy),
        }
    }

    /// As [`Policy::call`](super::Policy::call).
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
        let numbers = Numbers::default();
        self.policy.run(BoxOperation::new(&attempt, &numbers)).await
    }

    /// As [`Policy::call_with`](super::Policy::call_with).
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
        let numbers = Numbers::default();
        self.policy.run(BoxOperation::new(&attempt, &numbers)).await
    }

    /// As [`Policy::call_classified`](super::Policy::call_classified).
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
        let numbers = Numbers::default();
        self.policy.run(BoxOperation::new(&attempt, &numbers)).await
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
        f.debug_struct("BoxPolicy").finish_non_exhaustive()
    }
}

type BoxFuture<'a, O> = Pin<Box<dyn Future<Output = O> + Send + 'a>>;
type BoxAttempt<'a, T, E> = BoxFuture<'a, Outcome<T, E>>;
type Attempts<'a, T, E> = dyn Fn(Context) -> BoxAttempt<'a, T, E> + Send + Sync + 'a;

/// A policy for one type of operation whose futures are `Send`.
///
/// A trait of its own for [`BoxPolicy::new`]: a bound on references to a type that is yet to be inferred
/// sends the compiler through all policies of policies.
pub trait Boxable<T, E>: Send + Sync {
    /// Calls the operation.
    fn run<'a>(&'a self, op: BoxOperation<'a, T, E>) -> BoxFuture<'a, Result<T, Error<E>>>;
}

impl<P, T: 'static, E: 'static> Boxable<T, E> for P
where
    P: Send + Sync,
    for<'a, 'b> &'a P: Run<BoxOperation<'b, T, E>, Future: Send>,
{
    fn run<'a>(&'a self, op: BoxOperation<'a, T, E>) -> BoxFuture<'a, Result<T, Error<E>>> {
        Box::pin(async move { Run::run(self, op, Context::new()).await.result })
    }
}

/// An operation whose attempts are boxed.
pub struct BoxOperation<'a, T, E> {
    attempt: &'a Attempts<'a, T, E>,
    numbers: &'a Numbers,
}

/// Number of attempts started, and the endpoints tried.
#[derive(Default)]
struct Numbers {
    started: AtomicU32,
    tried: AtomicU64,
}

impl<'a, T, E> BoxOperation<'a, T, E> {
    const fn new(attempt: &'a Attempts<'a, T, E>, numbers: &'a Numbers) -> Self {
        Self { attempt, numbers }
    }
}

// Derived, these would ask for `T: Copy`.
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
        self.numbers.started.fetch_add(1, Ordering::Relaxed);
        (self.attempt)(cx)
    }

    fn listener(self) {}

    fn started(self) -> u32 {
        self.numbers.started.load(Ordering::Relaxed)
    }

    fn tried(self) -> Tried {
        Tried::from_bits(self.numbers.tried.load(Ordering::Relaxed))
    }

    fn keep_tried(self, tried: Tried) {
        self.numbers.tried.store(tried.bits(), Ordering::Relaxed);
    }
}
