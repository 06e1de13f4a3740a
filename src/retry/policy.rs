//! The loop around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::state::{self, Limits};
use super::{HintRule, Inner, Retry, Retrying};
use crate::backoff::Progress;
use crate::budget::{BudgetedCall, Extra};
use crate::clock::{ClockHandle, Instant, Sleep};
use crate::error::{Error, Reason};
use crate::observe::{Event, Observer, StopReason};
use crate::policy::{Context, ErrorClass, Health, Layer, Operation, Outcome, Policy, Verdict};

impl<T, E> Policy<T, E> for Retry {
    #[inline]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let inner = &*self.inner;
        if inner.max_elapsed.is_some() {
            // Otherwise the first attempt needs no reading of its own.
            cx.now(&inner.clock);
        }
        let budget = inner.budget.as_ref();
        let call = budget.map(|budget| budget.begin_in(&mut cx));
        let cx = cx.with_attempt(1);
        RetryFuture {
            state: State::Attempt {
                future: op.attempt(cx),
            },
            attempt: |op: Op, cx: Context| op.attempt(cx),
            retrying: Loop {
                inner,
                cx,
                progress: Progress::new(),
                extra: None,
                call,
            },
            op,
        }
    }

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
    struct RetryFuture<'a, T, E, Op, Fut, Make> {
        #[pin]
        state: State<T, E, Fut>,
        // Makes an attempt. A closure of no size, so that the attempt's type needs no name.
        attempt: Make,
        retrying: Loop<'a>,
        op: Op,
    }
}

pin_project! {
    // The attempt and the sleep after it share their place.
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<T, E, Fut> {
        Attempt {
            #[pin]
            future: Fut,
        },
        Sleep {
            #[pin]
            sleep: Sleep,
            // The outcome to return after the sleep, where no attempt follows.
            last: Option<Outcome<T, E>>,
        },
    }
}

impl<T, E, Op, Fut, Make> Future for RetryFuture<'_, T, E, Op, Fut, Make>
where
    Op: Operation<T, E>,
    Fut: Future<Output = Outcome<T, E>>,
    Make: Fn(Op, Context) -> Fut,
{
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    let mut outcome = ready!(future.poll(task));
                    if !outcome.verdict.is_retryable() && !this.retrying.is_open(&outcome.result) {
                        this.retrying.settle(&outcome, this.op.observer());
                        return Poll::Ready(outcome);
                    }
                    let next = this
                        .retrying
                        .after_failure(&mut outcome, this.op.observer());
                    let (sleep, last) = match next {
                        Next::Return => return Poll::Ready(outcome),
                        Next::Sleep(sleep) => (sleep, None),
                        // A new outcome: the old one says that the call has ended by now.
                        Next::SleepAndReturn(sleep) => {
                            (sleep, Some(Outcome::new(outcome.result, outcome.verdict)))
                        }
                    };
                    this.state.set(State::Sleep { sleep, last });
                }
                StateProj::Sleep { sleep, last } => {
                    ready!(sleep.poll(task));
                    if let Some(outcome) = last.take() {
                        return Poll::Ready(outcome);
                    }
                    let cx = this.retrying.next_attempt();
                    let future = (this.attempt)(*this.op, cx);
                    this.state.set(State::Attempt { future });
                }
            }
        }
    }
}

/// What a call remembers from attempt to attempt.
struct Loop<'a> {
    inner: &'a Inner,
    cx: Context,
    progress: Progress,
    // Ends before the call it belongs to.
    extra: Option<Extra<'a>>,
    call: Option<BudgetedCall<'a>>,
}

/// What follows a failed attempt.
enum Next {
    Return,
    Sleep(Sleep),
    SleepAndReturn(Sleep),
}

impl Loop<'_> {
    /// Whether this is an open circuit that the retry waits out.
    fn is_open<T, E>(&self, result: &Result<T, Error<E>>) -> bool {
        self.inner.retry_open_circuit
            && matches!(result, Err(error) if error.reason() == Some(Reason::CircuitOpen))
    }

    /// Ends the call with an outcome that is not worth a retry.
    #[inline]
    fn settle<T, E>(&mut self, outcome: &Outcome<T, E>, observer: Option<&dyn Observer>) {
        self.extra = None;
        if outcome.result.is_err() {
            self.stop(StopReason::NotRetryable, observer);
        } else if let Some(call) = &mut self.call {
            if outcome.verdict.health() == Health::Healthy {
                call.success();
            }
        }
    }

    fn stop(&self, stop: StopReason, observer: Option<&dyn Observer>) {
        if let Some(observer) = observer {
            observer.on_event(&Event::RetryStopped {
                policy: self.inner.name,
                attempt: self.cx.attempt(),
                stop,
            });
        }
    }

    /// Decides what follows a failure that is worth a retry.
    #[cold]
    fn after_failure<T, E>(
        &mut self,
        outcome: &mut Outcome<T, E>,
        observer: Option<&dyn Observer>,
    ) -> Next {
        let now = outcome.finished(&self.inner.clock);
        self.cx.arrive(&self.inner.clock, now);
        self.extra = None;
        if let Some(call) = &mut self.call {
            call.failure();
        }
        let refused_for = match &outcome.result {
            Err(error) => error.retry_after(),
            Ok(_) => None,
        };
        let verdict = if self.is_open(&outcome.result) {
            Verdict::transient().not_executed()
        } else {
            outcome.verdict
        };
        let (delay, allowed) = self.plan(&verdict, refused_for, now);
        match allowed {
            Ok(()) => {
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
                Next::Sleep(sleep(&self.inner.clock, now, delay))
            }
            Err(stop) => {
                self.stop(stop, observer);
                if stop == StopReason::BudgetEmpty && self.inner.wait_when_budget_empty {
                    Next::SleepAndReturn(sleep(&self.inner.clock, now, delay))
                } else {
                    Next::Return
                }
            }
        }
    }

    /// The delay before the next attempt, and whether there may be one. Takes it from the budget.
    fn plan(
        &mut self,
        verdict: &Verdict,
        refused_for: Option<Duration>,
        now: Instant,
    ) -> (Duration, Result<(), StopReason>) {
        let limits = self.limits();
        let repeat =
            state::may_repeat(&limits, self.cx.attempt(), self.cx.is_idempotent(), verdict);
        if repeat.is_err() {
            return (Duration::ZERO, repeat);
        }
        let (delay, earliest) = self.delay(verdict, refused_for);
        let start = state::may_start(&limits, now + delay, now + earliest);
        if start.is_err() {
            return (delay, start);
        }
        if let Some(call) = &mut self.call {
            self.extra = call.withdraw_in(verdict.class(), &mut self.cx);
            if self.extra.is_none() {
                return (delay, Err(StopReason::BudgetEmpty));
            }
        }
        (delay, Ok(()))
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
