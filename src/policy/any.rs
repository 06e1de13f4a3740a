//! The bound of code that is generic over policies and closures.

use std::future::Future;

use super::{Call, Policy, Run};
use crate::error::Error;

/// A policy that runs calls of the closure `F`: the one bound of a function that takes any policy and any closure.
/// Implemented for all policies; there is nothing to implement.
///
/// ```
/// use backstop::policy::Calls;
/// use backstop::{Error, ManualClock, Retry};
///
/// /// Logs what a policy could not save.
/// async fn logged<P, F>(policy: &P, op: F) -> Result<P::Value, Error<P::Error>>
/// where
///     P: Calls<F, Error: std::fmt::Debug>,
/// {
///     policy.call_any(op).await.inspect_err(|error| eprintln!("{error:?}"))
/// }
///
/// let clock = ManualClock::new();
/// let retry = Retry::builder().clock(clock.clone()).build()?;
/// let answer = clock.block_on(logged(&retry, || async { Ok::<_, std::io::Error>(7) }));
/// assert_eq!(answer.unwrap(), 7);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
///
/// The future is `Send` if it is with the policy and the closure at hand, so a caller with both can spawn `logged(..)`.
/// Code that spawns a call without knowing them takes a [`BoxPolicy`](super::BoxPolicy).
// This is a separate trait, because with a bound on references to a type that is yet to be inferred, the compiler would
// search all policies of policies.
pub trait Calls<F> {
    /// The value of the closure's future.
    type Value;

    /// The error of the closure's future.
    type Error;

    /// Runs `op` under this policy, like [`Policy::call`].
    fn call_any(&self, op: F) -> impl Future<Output = Result<Self::Value, Error<Self::Error>>>;
}

impl<P, F, Fut, T, E> Calls<F> for P
where
    P: Policy,
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    for<'a, 'b> &'a P: Run<Call<'b, F>>,
{
    type Value = T;
    type Error = E;

    fn call_any(&self, op: F) -> impl Future<Output = Result<T, Error<E>>> {
        self.call(op)
    }
}
