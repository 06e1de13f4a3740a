//! Layers that admit calls: enter, possibly wait, run, exit.
//!
//! The mechanism of limiters, bulkheads, breakers, throttles, shedders, and of [`Guard`](super::Guard). A layer
//! defines how a call enters ([`Gate`]), how it waits if it cannot enter at once ([`Entrance`]), and what it holds
//! while it runs ([`Permit`]).

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::context::Context;
use super::operation::Operation;
use super::outcome::Outcome;
use super::unwind::OnUnwind;
use crate::error::Rejected;
use crate::event::{Listener, Observer};
use crate::sync::cold_path;

/// A layer that admits calls, passed by reference.
pub trait Gate: Copy {
    /// The result of [`enter`](Self::enter) for an admitted call, from which its permit is created: a few words.
    type Ticket;

    /// The permit of a running call.
    type Permit: Permit;

    /// The wait of a call that was not admitted at once; [`NoWait`] if there is none.
    type Entrance: Entrance<Permit = Self::Permit>;

    /// Admits the call, rejects it, or lets it wait.
    ///
    /// Implementations are inlined, and pass on copies of the context, whose address must not escape (see
    /// `Context::move_to`).
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Self::Ticket, Self::Entrance>;

    /// Creates the permit of an admitted call, once its attempt has been created. A permit created earlier is moved
    /// while its stores are in the store buffer, which costs more than the rest of the layer. If creating the attempt
    /// panics, the permit counts as one of a call that panicked.
    fn permit(self, ticket: Self::Ticket) -> Self::Permit;
}

/// The permit of a running call. Dropped without [`exit`](Self::exit), the call was cancelled or panicked.
pub trait Permit: Sized {
    /// Marks that the call panicked.
    #[inline(always)]
    fn panicked(&mut self) {}

    /// Moves the permit out of the future, which then holds none.
    fn take(&mut self) -> Self;

    /// Ends a call with its outcome. The attempt has been dropped by then.
    fn exit<T, E>(self, outcome: Outcome<T, E>, observer: Option<&dyn Observer>) -> Outcome<T, E>;
}

/// A permit that holds nothing.
impl Permit for () {
    #[inline(always)]
    fn take(&mut self) {}

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        outcome
    }
}

/// The wait of a call that was not admitted at once.
pub trait Entrance {
    /// The type of the permit after admission.
    type Permit;

    /// Waits. If `reads_time`, the context has the current time on the layer's clock after admission.
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        reads_time: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Self::Permit, Rejected>>;
}

/// The wait of a layer in which no call waits.
#[derive(Debug)]
pub struct NoWait<P> {
    never: std::convert::Infallible,
    permit: PhantomData<fn() -> P>,
}

impl<P> Entrance for NoWait<P> {
    type Permit = P;

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context,
        _: bool,
        _: Option<&dyn Observer>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Result<P, Rejected>> {
        match self.never {}
    }
}

/// The decision of a gate about a call.
#[derive(Debug)]
pub enum Entered<T, W> {
    /// The call was admitted.
    Admitted(T),
    /// The call may have to wait.
    Waits(W),
    /// The call was rejected.
    Rejected(Rejected),
}

/// Runs an operation behind a gate.
#[inline(always)]
pub(crate) fn run<G: Gate, Op: Operation>(
    gate: G,
    op: Op,
    mut cx: Context,
) -> GuardedFuture<G, Op> {
    // Each branch returns a future of its own: a shared one would write the fields of the other branches too.
    match gate.enter(&mut cx, op.listener().observer()) {
        Entered::Admitted(ticket) => {
            let starting = Starting {
                gate,
                ticket: Some(ticket),
            };
            let attempt = op.attempt(cx);
            GuardedFuture::Running {
                attempt,
                permit: starting.permit(),
                listener: op.listener(),
            }
        }
        Entered::Waits(entrance) => {
            cold_path();
            GuardedFuture::Waiting { entrance, cx, op }
        }
        Entered::Rejected(rejected) => {
            cold_path();
            GuardedFuture::Rejected { rejected }
        }
    }
}

/// An admitted call whose attempt is being created.
struct Starting<G: Gate> {
    gate: G,
    /// `None` once the permit exists.
    ticket: Option<G::Ticket>,
}

impl<G: Gate> Starting<G> {
    #[inline(always)]
    fn permit(mut self) -> G::Permit {
        let ticket = self.ticket.take().expect("taken once, here");
        self.gate.permit(ticket)
    }
}

impl<G: Gate> Drop for Starting<G> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.gate.permit(ticket).panicked();
        }
    }
}

pin_project! {
    /// A call behind a gate.
    ///
    /// The enum itself is the future of a run; a struct around it cost a breaker 3 ns.
    #[project = GuardedProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum GuardedFuture<G: Gate, Op: Operation> {
        /// The call was rejected.
        Rejected { rejected: Rejected },
        /// The call waits for admission.
        Waiting {
            #[pin]
            entrance: G::Entrance,
            cx: Context,
            op: Op,
        },
        /// The call was admitted.
        Running {
            // Declared first, so that it is dropped before the permit.
            #[pin]
            attempt: Op::Attempt,
            permit: G::Permit,
            listener: Op::Listener,
        },
        /// The call has ended.
        Finished,
    }
}

impl<G: Gate, Op: Operation> Future for GuardedFuture<G, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            if let GuardedProj::Running {
                attempt,
                permit,
                listener,
            } = self.as_mut().project()
            {
                let mark = OnUnwind::new(|| permit.panicked());
                let polled = attempt.poll(task);
                mark.disarm();
                let outcome = ready!(polled);
                let listener = *listener;
                let permit = permit.take();
                // Drops the attempt before the permit is released, so that the next call does not run alongside it.
                self.set(Self::Finished);
                return Poll::Ready(permit.exit(outcome, listener.observer()).moved_by_field());
            }
            if let Err(rejected) = ready!(self.as_mut().poll_entrance(task)) {
                return Poll::Ready(Outcome::rejected(rejected));
            }
        }
    }
}

impl<G: Gate, Op: Operation> GuardedFuture<G, Op> {
    /// Waits until the call may run, and starts it.
    ///
    /// Out of line: inlined, the code of the attempt would be duplicated here and quadrupled in the layer outside.
    #[cold]
    #[inline(never)]
    fn poll_entrance(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Rejected>> {
        match self.as_mut().project() {
            GuardedProj::Waiting { entrance, cx, op } => {
                let observer = op.listener().observer();
                let admitted = ready!(entrance.poll(cx, Op::READS_TIME, observer, task));
                let (mut permit, op, cx) = (admitted?, *op, *cx);
                let mark = OnUnwind::new(|| permit.panicked());
                let attempt = op.attempt(cx);
                mark.disarm();
                let listener = op.listener();
                self.set(Self::Running {
                    attempt,
                    permit,
                    listener,
                });
                Poll::Ready(Ok(()))
            }
            GuardedProj::Rejected { rejected } => Poll::Ready(Err(*rejected)),
            GuardedProj::Running { .. } | GuardedProj::Finished => Poll::Pending,
        }
    }
}

impl<G: Gate, Op: Operation> fmt::Debug for GuardedFuture<G, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected { .. } => "Rejected",
            Self::Waiting { .. } => "Waiting",
            Self::Running { .. } => "Running",
            Self::Finished => "Finished",
        })
    }
}
