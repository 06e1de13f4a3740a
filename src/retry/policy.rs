//! The loop around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::state::{self, Call, Limits, Retrying, Wait};
use super::{Inner, Notify, Retry};
use crate::backoff::Progress;
use crate::clock::{ClockHandle, Sleep, blocking};
use crate::error::{Error, Reason};
use crate::event::{Event, Listener, Observer, StopReason};
use crate::instant::Instant;
use crate::policy::{Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::retry_budget::{BudgetedCall, Extra};
use crate::verdict::{ErrorClass, Health, Verdict};

impl Policy for Retry {}

impl<'a, Op: Operation> Run<Op> for &'a Retry {
    type Future = RetryFuture<'a, Op, ()>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.inner.run(op, cx, ())
    }
}

impl Describe for Retry {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Retry {
            max_attempts: self.inner.max_attempts,
        });
    }
}

impl<F> Policy for Notify<F> {}

impl<'a, F, Op> Run<Op> for &'a Notify<F>
where
    F: Fn(&Error<Op::Error>, &Retrying),
    Op: Operation,
{
    type Future = RetryFuture<'a, Op, Hooked<'a, F>>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.retry.inner.run(op, cx, Hooked { hook: &self.hook })
    }
}

impl<F> Describe for Notify<F> {
    fn clock(&self) -> Option<ClockHandle> {
        self.retry.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.retry.describe(layers);
    }
}

/// What is called with the error of an attempt that will be followed by another one.
pub trait Hook<Op: Operation>: Copy {
    /// Calls it.
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying);
}

/// No hook.
impl<Op: Operation> Hook<Op> for () {
    fn call(self, _: &Error<Op::Error>, _: &Retrying) {}
}

/// A closure as a hook.
#[derive(Debug)]
pub struct Hooked<'a, F> {
    hook: &'a F,
}

// Derived, these would ask for `F: Copy`.
impl<F> Clone for Hooked<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Hooked<'_, F> {}

impl<F, Op> Hook<Op> for Hooked<'_, F>
where
    F: Fn(&Error<Op::Error>, &Retrying),
    Op: Operation,
{
    fn call(self, error: &Error<Op::Error>, retrying: &Retrying) {
        blocking::outside(|| (self.hook)(error, retrying));
    }
}

impl Inner {
    #[inline(always)]
    fn run<Op: Operation, H: Hook<Op>>(
        &self,
        op: Op,
        mut cx: Context,
        hook: H,
    ) -> RetryFuture<'_, Op, H> {
        if self.max_elapsed.is_some() {
            // Otherwise the first attempt needs no reading of its own.
            cx.now(&self.clock);
        }
        let call = self.budget.as_ref().map(|budget| {
            // On a copy, because the address of `cx` must not get out: see `Context::move_to`.
            let mut copy = cx;
            let call = budget.begin_in(&mut copy);
            cx = copy;
            call
        });
        let cx = cx.with_attempt(1);
        RetryFuture::Attempt {
            attempt: op.attempt(cx),
            memory: Memory::First {
                op,
                hook,
                inner: self,
                cx,
                call,
            },
        }
    }
}

pin_project! {
    /// A run of a [`Retry`].
    ///
    /// The attempt and the sleep after it share their place, which the sleep makes 120 bytes large;
    /// so what the first attempt has to remember fits in beside it at no cost.
    #[project = RetryProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum RetryFuture<'a, Op, H>
    where
        Op: Operation,
        H: Hook<Op>,
    {
        /// An attempt runs.
        Attempt {
            #[pin]
            attempt: Op::Attempt,
            memory: Memory<'a, Op, H>,
        },
        /// The wait after an attempt that failed.
        Sleep {
            #[pin]
            sleep: Sleep,
            // Taken when the sleep is over.
            retrying: Option<Box<Loop<'a, Op, H>>>,
        },
        /// Over, or on its way to the next state.
        Finished,
    }
}

impl<Op: Operation, H: Hook<Op>> Future for RetryFuture<'_, Op, H> {
    type Output = OutcomeOf<Op>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                RetryProj::Attempt { attempt, memory } => {
                    let outcome = ready!(attempt.poll(task));
                    if outcome.result.is_ok()
                        && !outcome.verdict.is_retryable()
                        && memory.is_fresh()
                    {
                        return Poll::Ready(outcome.handed_on());
                    }
                    if let Some(outcome) = self.as_mut().after_attempt(outcome) {
                        return Poll::Ready(outcome);
                    }
                }
                RetryProj::Sleep { sleep, retrying } => {
                    ready!(sleep.poll(task));
                    let Some(mut retrying) = retrying.take() else {
                        return Poll::Pending;
                    };
                    if let Some(outcome) = retrying.end.take() {
                        return Poll::Ready(outcome);
                    }
                    self.as_mut().attempt_again(retrying);
                }
                RetryProj::Finished => return Poll::Pending,
            }
        }
    }
}

impl<Op: Operation, H: Hook<Op>> RetryFuture<'_, Op, H> {
    /// Decides what follows an attempt that was not simply good. Returns the outcome of the call if no
    /// other attempt follows.
    ///
    /// The outcome goes through by value: taking its address would force every outcome, the good
    /// ones too, out of the registers.
    #[cold]
    #[inline(never)]
    fn after_attempt(mut self: Pin<&mut Self>, outcome: OutcomeOf<Op>) -> Option<OutcomeOf<Op>> {
        let RetryProj::Attempt { memory, .. } = self.as_mut().project() else {
            return Some(outcome);
        };
        let memory = memory.take();
        // Drops the attempt: budgets, observers, hooks and the wait do not meet it any more.
        self.set(Self::Finished);
        match memory.after_attempt(outcome) {
            Next::Return(outcome) => Some(outcome),
            Next::Sleep(sleep, retrying) => {
                let retrying = Some(retrying);
                self.set(Self::Sleep { sleep, retrying });
                None
            }
        }
    }
}

impl<'a, Op: Operation, H: Hook<Op>> RetryFuture<'a, Op, H> {
    /// Starts the next attempt. Out of line: the code of an attempt would be part of each layer outside
    /// twice, for the first attempt and for this one.
    #[cold]
    #[inline(never)]
    fn attempt_again(mut self: Pin<&mut Self>, mut retrying: Box<Loop<'a, Op, H>>) {
        let (op, cx) = (retrying.op, retrying.next_attempt());
        let attempt = op.attempt(cx);
        let memory = Memory::Later { retrying };
        self.set(Self::Attempt { attempt, memory });
    }
}

impl<Op: Operation, H: Hook<Op>> fmt::Debug for RetryFuture<'_, Op, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempt { .. } => "Attempt",
            Self::Sleep { .. } => "Sleep",
            Self::Finished => "Finished",
        })
    }
}

type OutcomeOf<Op> = Outcome<<Op as Operation>::Value, <Op as Operation>::Error>;

/// What a call remembers from attempt to attempt.
pub enum Memory<'a, Op: Operation, H: Hook<Op>> {
    /// Nothing has failed yet: nothing is allocated.
    First {
        /// The operation.
        op: Op,
        /// The hook.
        hook: H,
        /// The retry.
        inner: &'a Inner,
        /// The context of the first attempt.
        cx: Context,
        /// The call as its budget knows it.
        call: Option<BudgetedCall<'a>>,
    },
    /// An attempt has failed.
    Later {
        /// The rest.
        retrying: Box<Loop<'a, Op, H>>,
    },
    /// On its way to the next state.
    Taken,
}

impl<'a, Op: Operation, H: Hook<Op>> Memory<'a, Op, H> {
    /// Whether nothing has to be done at the end of a good call.
    #[inline(always)]
    const fn is_fresh(&self) -> bool {
        matches!(self, Self::First { call: None, .. })
    }

    const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }

    fn after_attempt(self, outcome: OutcomeOf<Op>) -> Next<'a, Op, H> {
        match self {
            Self::Taken => Next::Return(outcome),
            Self::Later { retrying } => retrying.after_attempt(outcome),
            Self::First {
                op,
                hook,
                inner,
                cx,
                mut call,
            } => {
                if inner.is_worth_a_retry(&outcome) {
                    let retrying = Box::new(Loop {
                        op,
                        hook,
                        inner,
                        cx,
                        progress: Progress::new(),
                        extra: None,
                        call,
                        last: None,
                        end: None,
                    });
                    return retrying.after_failure(outcome);
                }
                // Without an allocation.
                if outcome.result.is_err() {
                    let observer = op.listener().observer();
                    inner.stop(cx.attempt(), StopReason::NotRetryable, observer);
                } else if let Some(call) = &mut call {
                    succeed(call, outcome.verdict.health());
                }
                Next::Return(outcome)
            }
        }
    }
}

impl<Op: Operation, H: Hook<Op>> fmt::Debug for Memory<'_, Op, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// Tells the budget of a good result.
fn succeed(call: &mut BudgetedCall<'_>, health: Health) {
    if health == Health::Healthy {
        call.success();
    }
}

/// What a call with a failed attempt remembers.
pub struct Loop<'a, Op: Operation, H: Hook<Op>> {
    op: Op,
    hook: H,
    inner: &'a Inner,
    cx: Context,
    progress: Progress,
    // Ends before the call it belongs to.
    extra: Option<Extra<'a>>,
    call: Option<BudgetedCall<'a>>,
    // The last outcome of an attempt that was executed.
    last: Option<OutcomeOf<Op>>,
    // The outcome to return after the sleep, if no attempt follows.
    end: Option<OutcomeOf<Op>>,
}

impl<Op: Operation, H: Hook<Op>> fmt::Debug for Loop<'_, Op, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").finish_non_exhaustive()
    }
}

/// The error that the caller does not see goes where it asked for it.
impl<Op: Operation, H: Hook<Op>> Drop for Loop<'_, Op, H> {
    fn drop(&mut self) {
        self.forget_last();
    }
}

/// What follows an attempt.
enum Next<'a, Op: Operation, H: Hook<Op>> {
    Return(OutcomeOf<Op>),
    Sleep(Sleep, Box<Loop<'a, Op, H>>),
}

impl Inner {
    /// Whether the retry has an interest in another attempt.
    fn is_worth_a_retry<T, E>(&self, outcome: &Outcome<T, E>) -> bool {
        let is_waited_out = |error| self.waits_out(error);
        outcome.verdict.is_retryable() || outcome.result.as_ref().is_err_and(is_waited_out)
    }

    /// Whether this is an open circuit that the retry waits out.
    fn waits_out<E>(&self, error: &Error<E>) -> bool {
        self.retry_open_circuit && error.reason() == Some(Reason::CircuitOpen)
    }

    fn stop(&self, attempt: u32, stop: StopReason, observer: Option<&dyn Observer>) {
        if let Some(observer) = observer {
            observer.on_event(&Event::RetryStopped {
                policy: self.name,
                attempt,
                stop,
            });
        }
    }
}

impl<'a, Op: Operation, H: Hook<Op>> Loop<'a, Op, H> {
    fn after_attempt(mut self: Box<Self>, outcome: OutcomeOf<Op>) -> Next<'a, Op, H> {
        if self.inner.is_worth_a_retry(&outcome) {
            return self.after_failure(outcome);
        }
        self.extra = None;
        if outcome.result.is_ok() {
            if let Some(call) = &mut self.call {
                succeed(call, outcome.verdict.health());
            }
            return Next::Return(outcome);
        }
        self.stop(StopReason::NotRetryable);
        Next::Return(self.outcome_of_call(outcome))
    }

    fn after_failure(mut self: Box<Self>, mut outcome: OutcomeOf<Op>) -> Next<'a, Op, H> {
        let now = outcome.finished(&self.inner.clock);
        self.cx.arrive(&self.inner.clock, now);
        self.extra = None;
        let error = outcome.result.as_ref().err();
        let rejection = error.filter(|error| error.is_rejected());
        if rejection.is_none() {
            if let Some(call) = &mut self.call {
                call.failure();
            }
        }
        let verdict = match error {
            Some(error) if self.inner.waits_out(error) => Verdict::transient().not_executed(),
            _ => outcome.verdict,
        };
        let (delay, allowed) = self.plan(&verdict, rejection, now);
        if let Err(stop) = allowed {
            self.stop(stop);
            let outcome = self.outcome_of_call(outcome);
            if stop != StopReason::BudgetEmpty || !self.inner.wait_when_budget_empty {
                return Next::Return(outcome);
            }
            // A new outcome: the old one says that the call has ended by now.
            self.end = Some(Outcome::new(outcome.result, outcome.verdict));
        } else {
            self.tell(outcome.result.as_ref().err(), verdict, delay);
            self.keep(outcome);
        }
        Next::Sleep(sleep(&self.inner.clock, now, delay), self)
    }

    fn stop(&self, stop: StopReason) {
        let observer = self.op.listener().observer();
        self.inner.stop(self.cx.attempt(), stop, observer);
    }

    /// Tells observer and hooks that another attempt follows.
    fn tell(&self, error: Option<&Error<Op::Error>>, verdict: Verdict, delay: Duration) {
        let retrying = Retrying::new(self.cx.attempt(), verdict, delay);
        if let Some(observer) = self.op.listener().observer() {
            observer.on_event(&Event::RetryScheduled {
                policy: self.inner.name,
                attempt: retrying.attempt(),
                delay,
                verdict,
            });
        }
        if let Some(error) = error {
            self.hook.call(error, &retrying);
        }
        if let Some(hook) = &self.inner.on_retry {
            hook(&retrying);
        }
    }

    /// The outcome of a call whose last attempt had this one: that of the last attempt that was executed.
    fn outcome_of_call(&mut self, outcome: OutcomeOf<Op>) -> OutcomeOf<Op> {
        let is_rejected = outcome.result.as_ref().is_err_and(Error::is_rejected);
        if !is_rejected || self.inner.return_rejection {
            return outcome;
        }
        let Some(last) = self.last.take() else {
            return outcome;
        };
        self.discard(outcome);
        // A new outcome: the time of the old one is over.
        Outcome::new(last.result, last.verdict)
    }

    /// Keeps the outcome of an attempt that was executed.
    fn keep(&mut self, outcome: OutcomeOf<Op>) {
        if outcome.result.as_ref().is_err_and(Error::is_rejected) {
            self.discard(outcome);
        } else {
            self.forget_last();
            self.last = Some(outcome);
        }
    }

    fn forget_last(&mut self) {
        if let Some(last) = self.last.take() {
            self.discard(last);
        }
    }

    fn discard(&self, outcome: OutcomeOf<Op>) {
        if let Err(error) = outcome.result {
            self.op.discard(error);
        }
    }

    /// The delay before the next attempt, and whether there may be one. Takes it from the budget.
    fn plan(
        &mut self,
        verdict: &Verdict,
        rejection: Option<&Error<Op::Error>>,
        now: Instant,
    ) -> (Duration, Result<(), StopReason>) {
        let (limits, started) = (self.limits(), rejection.is_none());
        let call = Call {
            idempotent: self.cx.is_idempotent(),
            repeatable: self.cx.is_repeatable(),
        };
        let repeat = state::may_repeat(&limits, self.cx.attempt(), call, started, verdict);
        if repeat.is_err() {
            return (Duration::ZERO, repeat);
        }
        let wait = self.wait(verdict, rejection);
        let delay = match state::may_start(&limits, now, wait) {
            Ok(delay) => delay,
            Err(stop) => return (wait.delay, Err(stop)),
        };
        match &mut self.call {
            // An attempt that a layer of our own rejected never reached the dependency, which is what the
            // budget protects.
            Some(call) if started => {
                self.extra = call.withdraw_in(verdict.class(), &mut self.cx);
                match self.extra {
                    Some(_) => (delay, Ok(())),
                    None => (delay, Err(StopReason::BudgetEmpty)),
                }
            }
            _ => (delay, Ok(())),
        }
    }

    fn limits(&mut self) -> Limits {
        let Inner {
            clock,
            max_attempts,
            max_hint,
            max_elapsed,
            ..
        } = self.inner;
        let start = self.cx.start(clock);
        Limits {
            max_attempts: *max_attempts,
            max_hint: *max_hint,
            latest_start: max_elapsed.map_or(Instant::FAR_FUTURE, |limit| start + limit),
            deadline: self.cx.deadline(clock),
        }
    }

    /// How long to wait, and how long the server or the rejecting layer said it would take.
    fn wait(&mut self, verdict: &Verdict, rejection: Option<&Error<Op::Error>>) -> Wait {
        let inner = self.inner;
        let backoff = match verdict.class() {
            ErrorClass::Throttled if rejection.is_none() => &inner.throttled_backoff,
            _ => &inner.backoff,
        };
        let (progress, unit) = (std::cell::RefCell::new(&mut self.progress), || {
            inner.rng.unit()
        });
        // A backoff may be code of the user.
        let computed = || blocking::outside(|| progress.borrow_mut().next(backoff, unit));
        let spread = || blocking::outside(|| progress.borrow_mut().next_spread(backoff, unit));
        let wait = match (rejection, verdict.hint()) {
            (Some(rejection), _) => match rejection.retry_after() {
                // A layer of our own: it knows to the nanosecond when it admits a call.
                Some(wait) => Wait {
                    delay: wait,
                    earliest: wait,
                    is_obeyed: false,
                },
                None => Wait::of(computed()),
            },
            (None, Some(hint)) => Wait::hinted(inner.hint, hint, computed, spread),
            (None, None) => Wait::of(computed()),
        };
        if verdict.resets_backoff() {
            self.progress = Progress::new();
        }
        match &inner.delay {
            Some(replace) => {
                let retrying = Retrying::new(self.cx.attempt(), *verdict, wait.delay);
                Wait::of(replace(&retrying))
            }
            None => wait,
        }
    }

    /// The context of the attempt after a wait.
    fn next_attempt(&mut self) -> Context {
        self.cx.refresh(&self.inner.clock);
        self.cx = self.cx.with_attempt(self.cx.attempt().saturating_add(1));
        self.cx
    }
}

/// A wait that lets other tasks run even when it is no wait at all.
fn sleep(clock: &ClockHandle, now: Instant, delay: Duration) -> Sleep {
    if delay.is_zero() {
        Sleep::yield_once()
    } else {
        clock.sleep_until(now + delay)
    }
}
