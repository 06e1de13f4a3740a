//! The loop around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::state::{self, Limits};
use super::{HintRule, Inner, Retry, Retrying};
use crate::backoff::Progress;
use crate::clock::{ClockHandle, Sleep};
use crate::error::{Error, Reason};
use crate::event::{Event, Listener, Observer, StopReason};
use crate::instant::Instant;
use crate::policy::{Context, Describe, Layer, Operation, Outcome, Policy, Run};
use crate::retry_budget::{BudgetedCall, Extra};
use crate::verdict::{ErrorClass, Health, Verdict};

impl Policy for Retry {}

impl<'a, Op: Operation> Run<Op> for &'a Retry {
    type Future = RetryFuture<'a, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> RetryFuture<'a, Op> {
        let inner = &*self.inner;
        if inner.max_elapsed.is_some() {
            // Otherwise the first attempt needs no reading of its own.
            cx.now(&inner.clock);
        }
        let call = inner.budget.as_ref().map(|budget| {
            // On a copy, for the address of `cx` must not get out: see `Context::move_to`.
            let mut copy = cx;
            let call = budget.begin_in(&mut copy);
            cx = copy;
            call
        });
        let cx = cx.with_attempt(1);
        RetryFuture {
            state: State::Attempt {
                future: op.attempt(cx),
                memory: Memory::First {
                    op,
                    inner,
                    cx,
                    call,
                },
            },
        }
    }
}

impl Describe for Retry {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Retry {
            max_attempts: self.inner.max_attempts,
        });
    }
}

pin_project! {
    pub struct RetryFuture<'a, Op: Operation> {
        #[pin]
        state: State<'a, Op>,
    }
}

pin_project! {
    // The attempt and the sleep after it share their place, which the sleep makes 120 bytes large;
    // so what the first attempt has to remember fits in beside it at no cost.
    #[project = StateProj]
    enum State<'a, Op: Operation> {
        Attempt {
            #[pin]
            future: Op::Attempt,
            memory: Memory<'a, Op>,
        },
        Sleep {
            #[pin]
            sleep: Sleep,
            // Taken when the sleep is over.
            retrying: Option<Box<Loop<'a, Op>>>,
        },
    }
}

impl<Op: Operation> Future for RetryFuture<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { future, memory } => {
                    let outcome = ready!(future.poll(task));
                    if outcome.result.is_ok() && !outcome.verdict.is_retryable() {
                        memory.succeed(outcome.verdict.health());
                        return Poll::Ready(outcome.handed_on());
                    }
                    match memory.after_failure(outcome) {
                        Next::Return(outcome) => return Poll::Ready(outcome),
                        Next::Sleep(sleep, retrying) => this.state.set(State::Sleep {
                            sleep,
                            retrying: Some(retrying),
                        }),
                    }
                }
                StateProj::Sleep { sleep, retrying } => {
                    ready!(sleep.poll(task));
                    let mut retrying = retrying.take().expect("the next state has it");
                    if let Some(outcome) = retrying.last.take() {
                        return Poll::Ready(outcome);
                    }
                    let cx = retrying.next_attempt();
                    let future = retrying.op.attempt(cx);
                    let memory = Memory::Later { retrying };
                    this.state.set(State::Attempt { future, memory });
                }
            }
        }
    }
}

type OutcomeOf<Op> = Outcome<<Op as Operation>::Value, <Op as Operation>::Error>;

/// What a call remembers from attempt to attempt.
enum Memory<'a, Op: Operation> {
    /// Nothing has failed yet: nothing is allocated.
    First {
        op: Op,
        inner: &'a Inner,
        cx: Context,
        call: Option<BudgetedCall<'a>>,
    },
    Later {
        retrying: Box<Loop<'a, Op>>,
    },
    /// On its way to the next state.
    Taken,
}

impl<'a, Op: Operation> Memory<'a, Op> {
    /// Ends the call with a good result.
    #[inline(always)]
    fn succeed(&mut self, health: Health) {
        let call = match self {
            Self::First { call, .. } => call,
            Self::Later { retrying } => {
                retrying.extra = None;
                &mut retrying.call
            }
            Self::Taken => return,
        };
        if let Some(call) = call {
            if health == Health::Healthy {
                call.success();
            }
        }
    }

    /// Decides what follows a result that is not simply good.
    ///
    /// The outcome goes through by value: taking its address would force every outcome, the good
    /// ones too, out of the registers.
    #[cold]
    #[inline(never)]
    fn after_failure(&mut self, outcome: OutcomeOf<Op>) -> Next<'a, Op> {
        if self.is_worth_a_retry(&outcome) {
            self.take().after_failure(outcome)
        } else {
            self.give_up();
            Next::Return(outcome)
        }
    }

    /// Whether the retry has an interest in another attempt.
    fn is_worth_a_retry(&self, outcome: &OutcomeOf<Op>) -> bool {
        outcome.verdict.is_retryable()
            || match (&outcome.result, self.inner()) {
                (Err(error), Some(inner)) => inner.waits_out(error),
                _ => false,
            }
    }

    /// Ends the call with a failure that is not worth a retry.
    fn give_up(&mut self) {
        let (op, inner, attempt) = match self {
            Self::First { op, inner, cx, .. } => (*op, *inner, cx.attempt()),
            Self::Later { retrying } => {
                retrying.extra = None;
                (retrying.op, retrying.inner, retrying.cx.attempt())
            }
            Self::Taken => return,
        };
        inner.stop(attempt, StopReason::NotRetryable, op.listener().observer());
    }

    fn inner(&self) -> Option<&'a Inner> {
        match self {
            Self::First { inner, .. } => Some(inner),
            Self::Later { retrying } => Some(retrying.inner),
            Self::Taken => None,
        }
    }

    #[cold]
    fn take(&mut self) -> Box<Loop<'a, Op>> {
        match std::mem::replace(self, Self::Taken) {
            Self::First {
                op,
                inner,
                cx,
                call,
            } => Box::new(Loop {
                op,
                inner,
                cx,
                progress: Progress::new(),
                extra: None,
                call,
                last: None,
            }),
            Self::Later { retrying } => retrying,
            Self::Taken => unreachable!("it is put back before the next poll"),
        }
    }
}

/// What a call with a failed attempt remembers.
struct Loop<'a, Op: Operation> {
    op: Op,
    inner: &'a Inner,
    cx: Context,
    progress: Progress,
    // Ends before the call it belongs to.
    extra: Option<Extra<'a>>,
    call: Option<BudgetedCall<'a>>,
    // The outcome to return after the sleep, where no attempt follows.
    last: Option<OutcomeOf<Op>>,
}

/// What follows a failed attempt.
enum Next<'a, Op: Operation> {
    Return(OutcomeOf<Op>),
    Sleep(Sleep, Box<Loop<'a, Op>>),
}

impl Inner {
    /// Whether this is an open circuit that the retry waits out.
    fn waits_out<E>(&self, error: &Error<E>) -> bool {
        self.retry_open_circuit && error.reason() == Some(Reason::CircuitOpen)
    }

    #[inline]
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

impl<'a, Op: Operation> Loop<'a, Op> {
    fn after_failure(mut self: Box<Self>, mut outcome: OutcomeOf<Op>) -> Next<'a, Op> {
        let op = self.op;
        let observer = op.listener().observer();
        let now = outcome.finished(&self.inner.clock);
        self.cx.arrive(&self.inner.clock, now);
        self.extra = None;
        let error = outcome.result.as_ref().err();
        let refusal = error.filter(|error| error.is_rejected());
        if refusal.is_none() {
            if let Some(call) = &mut self.call {
                call.failure();
            }
        }
        let verdict = match error {
            Some(error) if self.inner.waits_out(error) => Verdict::transient().not_executed(),
            _ => outcome.verdict,
        };
        let (delay, allowed) = self.plan(&verdict, refusal, now);
        if let Err(stop) = allowed {
            self.inner.stop(self.cx.attempt(), stop, observer);
            if stop == StopReason::BudgetEmpty && self.inner.wait_when_budget_empty {
                // A new outcome: the old one says that the call has ended by now.
                self.last = Some(Outcome::new(outcome.result, outcome.verdict));
            } else {
                return Next::Return(outcome);
            }
        } else {
            let retrying = self.retrying(verdict, delay);
            if let Some(observer) = observer {
                observer.on_event(&Event::RetryScheduled {
                    policy: self.inner.name,
                    attempt: retrying.attempt,
                    delay,
                    verdict,
                });
            }
            if let Some(hook) = &self.inner.on_retry {
                hook(&retrying);
            }
        }
        Next::Sleep(sleep(&self.inner.clock, now, delay), self)
    }

    /// The delay before the next attempt, and whether there may be one. Takes it from the budget.
    fn plan(
        &mut self,
        verdict: &Verdict,
        refusal: Option<&Error<Op::Error>>,
        now: Instant,
    ) -> (Duration, Result<(), StopReason>) {
        let limits = self.limits();
        let repeat =
            state::may_repeat(&limits, self.cx.attempt(), self.cx.is_idempotent(), verdict);
        if repeat.is_err() {
            return (Duration::ZERO, repeat);
        }
        let (delay, earliest) = self.delay(verdict, refusal.and_then(Error::retry_after));
        let start = state::may_start(&limits, now + delay, now + earliest);
        if start.is_err() {
            return (delay, start);
        }
        match &mut self.call {
            // What a layer of our own refused never reached the dependency, which is whom the budget
            // protects.
            Some(call) if refusal.is_none() => {
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
            max_elapsed,
            ..
        } = self.inner;
        let start = self.cx.start(clock);
        Limits {
            max_attempts: *max_attempts,
            latest_start: max_elapsed.map_or(Instant::FAR_FUTURE, |limit| start + limit),
            deadline: self.cx.deadline(clock),
        }
    }

    /// How long to wait, and how long the server or the refusing layer said it would take.
    fn delay(&mut self, verdict: &Verdict, refused_for: Option<Duration>) -> (Duration, Duration) {
        let inner = self.inner;
        let backoff = match verdict.class() {
            ErrorClass::Throttled => &inner.throttled_backoff,
            ErrorClass::Transient | ErrorClass::Timeout => &inner.backoff,
        };
        let computed = self.progress.next(backoff, || inner.rng.unit());
        let (delay, earliest) = match (refused_for, verdict.hint(), inner.hint) {
            // A layer of our own: it knows to the nanosecond when it lets a call through.
            (Some(wait), ..) => (wait, wait),
            (None, Some(hint), HintRule::Within(_) | HintRule::UpTo(_)) => {
                (state::apply_hint(inner.hint, computed, Some(hint)), hint)
            }
            (None, ..) => (computed, Duration::ZERO),
        };
        match &inner.delay {
            Some(replace) => (replace(&self.retrying(*verdict, delay)), Duration::ZERO),
            None => (delay, earliest),
        }
    }

    const fn retrying(&self, verdict: Verdict, delay: Duration) -> Retrying {
        Retrying {
            attempt: self.cx.attempt(),
            verdict,
            delay,
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
