//! The core of the crate: policies, operations, and stacks of policies.
//!
//! A [`Policy`] is a rule about how an [`Operation`] is run, which [`Run`] implements. A tuple of policies is a policy:
//! the first is the outermost. `&P`, `Arc<P>`, `Box<P>`, `Rc<P>`, and `Option<P>` are policies too; `None` passes calls
//! through, which makes a switch for configuration.
//!
//! ```text
//!            call(|| ...)                                   Result<T, Error<E>>
//!                 │                                                ▲
//!   Context ──►  Timeout ──► Retry ──► Timeout ──► operation ──► Outcome
//!   (deadline, attempt, ...)    ▲________________________│   (result, verdict)
//! ```
//!
//! # Why the traits look like this
//!
//! No trait has the value or the error type as a parameter: the compiler erases lifetimes inside
//! futures, and a type named twice, as a parameter and inside the operation, can then no longer be
//! proven to be the same. And every future has a name, so that generic code can ask for `Send`.
//! Calls compile wherever an `async fn` would: in `tokio::spawn`, in handlers, with any error type.
//!
//! `P: Policy` alone says nothing about the operations that `P` runs. A function that takes any policy and any closure
//! has the bound `P: Calls<F>`. Code with an operation of its own asks for `&P: Run<ThatOperation>`; the recipes have both.
//!
//! # A policy of your own
//!
//! A [`Guard`] decides before a call and inspects its result, in ten lines; [`Guarded`] makes a policy of it. Anything
//! else is a future with a name. This one makes a second attempt at once if the first fails:
//!
//! ```
//! use std::future::Future;
//! use std::pin::Pin;
//! use std::task::{Context as Task, Poll, ready};
//! use backstop::policy::{Describe, Run};
//! use backstop::{Context, ManualClock, Operation, Outcome, Policy};
//!
//! struct Twice;
//!
//! impl Policy for Twice {}
//! impl Describe for Twice {}
//!
//! impl<Op: Operation> Run<Op> for &Twice {
//!     type Future = TwiceFuture<Op>;
//!
//!     fn run(self, op: Op, cx: Context) -> TwiceFuture<Op> {
//!         TwiceFuture { op, cx, attempt: Box::pin(op.attempt(cx)) }
//!     }
//! }
//!
//! struct TwiceFuture<Op: Operation> { op: Op, cx: Context, attempt: Pin<Box<Op::Attempt>> }
//!
//! // Nothing in it is pinned.
//! impl<Op: Operation> Unpin for TwiceFuture<Op> {}
//!
//! impl<Op: Operation> Future for TwiceFuture<Op> {
//!     type Output = Outcome<Op::Value, Op::Error>;
//!
//!     fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
//!         let outcome = ready!(self.attempt.as_mut().poll(task));
//!         if self.cx.attempt() > 1 || !self.cx.is_repeatable() {
//!             return Poll::Ready(outcome);
//!         }
//!         match outcome.result {
//!             Ok(_) => Poll::Ready(outcome),
//!             Err(error) => {
//!                 self.op.discard(error);
//!                 self.cx = self.cx.with_attempt(2);
//!                 self.attempt = Box::pin(self.op.attempt(self.cx));
//!                 self.poll(task)
//!             }
//!         }
//!     }
//! }
//!
//! let report = ManualClock::new().block_on(Twice.call_reported(|| async { Err::<(), _>("no") }));
//! assert_eq!((report.attempts, report.operation_error()), (2, Some(&"no")));
//! ```
//!
//! # Policies without a type
//!
//! [`BoxPolicy`] hides which policies a stack is made of, for fields and registries.
//!
//! # What is not a policy
//!
//! The compiler names the element of a tuple that is not a policy:
//!
//! ```compile_fail
//! use backstop::{Policy, Timeout};
//! struct NotAPolicy;
//! let stack = (Timeout::after(std::time::Duration::from_secs(1)), NotAPolicy);
//! // error[E0277]: `&NotAPolicy` is not a policy for this operation
//! let call = stack.call(|| async { Ok::<_, ()>(1) });
//! ```

mod any;
mod attempt;
mod boxed;
mod call;
mod calls;
mod check;
mod classified;
mod classify;
mod context;
mod describe;
mod either;
mod guard;
pub(crate) mod guarded;
mod inspect;
pub(crate) mod operation;
mod outcome;
mod pipeline;
mod report;
mod tuple;
mod unwind;
mod wrappers;

pub use self::any::Calls;
pub use self::attempt::Attempt;
pub use self::boxed::{BoxOperation, BoxPolicy, Boxable};
pub use self::call::{Call, CallBlocking, CallClassified, CallOnce, CallWith};
pub use self::calls::{AtMostOnce, Policy};
pub use self::check::OrderWarning;
pub use self::classified::Classified;
pub use self::classify::{Classify, ClassifyAttempts, ClassifyErrors, RetryIf};
pub use self::context::Context;
pub(crate) use self::context::{BudgetNumber, SavedContext};
pub use self::describe::{Describe, LayerKind};
pub use self::guard::{Guard, Guarded};
pub use self::inspect::Inspect;
pub(crate) use self::operation::OutcomeOf;
pub use self::operation::{Operation, Run, Tried};
pub(crate) use self::outcome::Finished;
pub use self::outcome::Outcome;
pub use self::pipeline::{Around, CallOptions, Pipeline, With};
pub use self::report::{Report, Reported};
pub use self::tuple::Under;
#[doc(no_inline)]
pub use crate::priority::Priority;
#[doc(no_inline)]
pub use crate::verdict::{ErrorClass, Health, RetryAdvice, Verdict};

pub(crate) use self::unwind::OnUnwind;
