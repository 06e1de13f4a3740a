//! The state of a call between attempts, and the decision after an attempt that failed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::Inner;
use super::hook::Hook;
use super::state::{self, Call, Limits, Retrying, Wait};
use crate::backoff::Progress;
use crate::clock::{ClockHandle, Sleep};
use crate::error::{Error, Reason};
use crate::event::{Event, Listener, Observer, StopReason};
use crate::instant::Instant;
use crate::policy::{Context, Operation, Outcome, OutcomeOf, SavedContext};
use crate::retry_budget::{BudgetedCall, Extra};
use crate::verdict::{ErrorClass, Health, Verdict};

/// State of a call between attempts.
pub enum Memory<'a, Op: Operation, H: Hook<Op>> {
    /// No attempt has failed yet, and nothing is allocated.
    First {
        /// The operation.
        op: Op,
        /// The hook.
        hook: H,
        /// The retry.
        inner: &'a Inner,
        /// The context of the first attempt.
        cx: SavedContext,
        /// The call in its budget, if there is one.
        call: Option<BudgetedCall<'a>>,
    },
    /// An attempt has failed.
    Later {
        /// State since the first failure.
        again: Pin<Box<Again<'a, Op, H>>>,
    },
    /// Empty while the content is being moved to the next state.
    Taken,
}

impl<'a, Op: Operation, H: Hook<Op>> Memory<'a, Op, H> {
    /// Returns whether a good outcome needs no further work.
    #[inline(always)]
    pub(super) const fn is_fresh(&self) -> bool {
        matches!(self, Self::First { call: None, .. })
    }

    pub(super) const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }

    /// Decides what follows an attempt with this outcome.
    pub(super) fn after_attempt(self, mut outcome: OutcomeOf<Op>) -> Next<'a, Op, H> {
        match self {
            Self::Taken => Next::Return(outcome),
            Self::Later { again } => Again::after_attempt(again, outcome),
            Self::First {
                op,
                hook,
                inner,
                cx,
                mut call,
            } => {
                if inner.is_worth_a_retry(&outcome) {
                    let now = outcome.finished(&inner.clock);
                    let retrying = Loop {
                        op,
                        hook,
                        inner,
                        cx: cx.restore(&inner.clock, now),
                        executed: 0,
                        failure_cost: 0,
                        progress: Progress::new(),
                        extra: None,
                        call,
                        last: None,
                        end: None,
                    };
                    let sleep = Sleep::yield_once();
                    let again = Box::pin(Again { sleep, retrying });
                    return Again::after_attempt(again, outcome);
                }
                // The last attempt: its error is borrowed, so nothing is allocated.
                if let Some(call) = &mut call {
                    record_last(call, &outcome);
                }
                if let Err(error) = &outcome.result {
                    let executed = u32::from(!error.is_rejected());
                    let observer = op.listener().observer();
                    inner.stop(cx.attempt(), executed, stop_after(error), observer);
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

/// Records in the budget an attempt that is not worth a retry. A failure of the dependency counts even if the server
/// forbids the retry, as in gRPC's A6, or the call must not be repeated.
fn record_last<T, E>(call: &mut BudgetedCall<'_>, outcome: &Outcome<T, E>) {
    let (health, class) = (outcome.verdict.health(), outcome.verdict.class());
    match &outcome.result {
        Ok(_) if health == Health::Healthy => call.success(),
        Err(error) if error.is_rejected() => {}
        // A layer outside records it.
        _ if call.is_nested() => {}
        _ if health == Health::Unhealthy || class == ErrorClass::Throttled => call.failure(),
        _ => {}
    }
}

pin_project! {
    /// State of a call after its first failure. Allocated once.
    pub struct Again<'a, Op: Operation, H: Hook<Op>> {
        // The sleep before the next attempt, or a finished one.
        #[pin]
        sleep: Sleep,
        retrying: Loop<'a, Op, H>,
    }
}

impl<'a, Op: Operation, H: Hook<Op>> Again<'a, Op, H> {
    fn after_attempt(mut again: Pin<Box<Self>>, outcome: OutcomeOf<Op>) -> Next<'a, Op, H> {
        let mut this = again.as_mut().project();
        match this.retrying.after_attempt(outcome) {
            Decision::Return(outcome) => Next::Return(outcome),
            Decision::Sleep(sleep) => {
                this.sleep.set(sleep);
                Next::Sleep(again)
            }
        }
    }

    pub(super) fn poll_sleep(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        self.project().sleep.poll(task)
    }

    /// Takes the outcome to return after the sleep, if no attempt follows.
    pub(super) fn take_end(self: Pin<&mut Self>) -> Option<OutcomeOf<Op>> {
        let retrying = self.project().retrying;
        let end = retrying.end.take()?;
        Some(retrying.hand_over(end))
    }

    /// Returns the operation and the context of the attempt after a sleep.
    pub(super) fn next_attempt(self: Pin<&mut Self>) -> (Op, Context) {
        let retrying = self.project().retrying;
        (retrying.op, retrying.next_attempt())
    }
}

impl<Op: Operation, H: Hook<Op>> fmt::Debug for Again<'_, Op, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Again").finish_non_exhaustive()
    }
}

/// State of a call after its first failure, besides its sleep.
struct Loop<'a, Op: Operation, H: Hook<Op>> {
    op: Op,
    hook: H,
    inner: &'a Inner,
    cx: Context,
    /// Number of attempts that no inner layer rejected.
    executed: u32,
    /// Tokens that the last failure cost in the budget.
    failure_cost: u64,
    progress: Progress,
    // Declared before the call, so that it ends first.
    extra: Option<Extra<'a>>,
    call: Option<BudgetedCall<'a>>,
    // The last outcome of an attempt that was executed.
    last: Option<OutcomeOf<Op>>,
    // The outcome to return after the sleep, if no attempt follows.
    end: Option<OutcomeOf<Op>>,
}

/// Reports the errors that the caller does not see, the newest one last.
impl<Op: Operation, H: Hook<Op>> Drop for Loop<'_, Op, H> {
    fn drop(&mut self) {
        self.forget_last();
        if let Some(end) = self.end.take() {
            self.discard(end);
        }
    }
}

/// The step after an attempt.
pub(super) enum Next<'a, Op: Operation, H: Hook<Op>> {
    Return(OutcomeOf<Op>),
    Sleep(Pin<Box<Again<'a, Op, H>>>),
}

enum Decision<Op: Operation> {
    Return(OutcomeOf<Op>),
    Sleep(Sleep),
}

impl Inner {
    /// Returns whether another attempt may help.
    fn is_worth_a_retry<T, E>(&self, outcome: &Outcome<T, E>) -> bool {
        let is_waited_out = |error| self.waits_out(error);
        outcome.verdict.is_retryable() || outcome.result.as_ref().is_err_and(is_waited_out)
    }

    /// Returns whether this is the rejection of an open circuit that the retry waits for.
    fn waits_out<E>(&self, error: &Error<E>) -> bool {
        self.settings.retry_open_circuit && error.reason() == Some(Reason::CircuitOpen)
    }

    fn stop(&self, attempt: u32, executed: u32, stop: StopReason, observer: Option<&dyn Observer>) {
        if let Some(observer) = observer {
            observer.on_event(&Event::RetryStopped {
                policy: self.settings.name,
                pipeline: None,
                attempt,
                executed,
                stop,
            });
        }
    }
}

/// Returns why no attempt follows one with this error, which is not worth a retry.
const fn stop_after<E>(error: &Error<E>) -> StopReason {
    match error {
        Error::Rejected(rejected) => StopReason::Rejected(rejected.reason()),
        Error::TimedOut(timed_out) if timed_out.is_by_deadline() => StopReason::Deadline,
        _ => StopReason::NotRetryable,
    }
}

impl<Op: Operation, H: Hook<Op>> Loop<'_, Op, H> {
    fn after_attempt(&mut self, outcome: OutcomeOf<Op>) -> Decision<Op> {
        if self.inner.is_worth_a_retry(&outcome) {
            return self.after_failure(outcome);
        }
        self.end_extra(&outcome);
        if let Some(call) = &mut self.call {
            record_last(call, &outcome);
        }
        let Err(error) = &outcome.result else {
            return Decision::Return(outcome);
        };
        if !error.is_rejected() {
            self.executed += 1;
            // `record_last` left it to the outer layer.
            self.failure_cost = 0;
        }
        self.stop(stop_after(error));
        let outcome = self.outcome_of_call(outcome);
        Decision::Return(self.hand_over(outcome))
    }

    fn after_failure(&mut self, mut outcome: OutcomeOf<Op>) -> Decision<Op> {
        let now = outcome.finished(&self.inner.clock);
        self.cx.set_now(&self.inner.clock, now);
        self.end_extra(&outcome);
        let error = outcome.result.as_ref().err();
        let rejection = error.filter(|error| error.is_rejected());
        if rejection.is_none() {
            self.executed += 1;
            if let Some(call) = &mut self.call {
                self.failure_cost = call.record_failure();
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
            if stop != StopReason::BudgetEmpty || !self.inner.settings.wait_when_budget_empty {
                return Decision::Return(self.hand_over(outcome));
            }
            // A new outcome, because the cached end time of the old one is from before the sleep.
            let verdict = outcome.verdict.later(delay);
            let result = outcome.result.map_err(|error| error.later(delay));
            self.end = Some(Outcome::new(result, verdict));
        } else {
            self.report_retry(outcome.result.as_ref().err(), verdict, delay);
            self.keep(outcome);
        }
        Decision::Sleep(sleep(&self.inner.clock, now, delay))
    }

    /// Ends the retry that had this outcome in the budget. One that an inner layer rejected costs nothing.
    fn end_extra(&mut self, outcome: &OutcomeOf<Op>) {
        if let (Some(extra), Some(call), true) =
            (self.extra.take(), &mut self.call, outcome.is_rejected())
        {
            call.give_back(extra);
        }
    }

    fn stop(&self, stop: StopReason) {
        let observer = self.op.listener().observer();
        let attempt = self.cx.attempt();
        self.inner.stop(attempt, self.executed, stop, observer);
    }

    /// Reports to the observer and the hooks that another attempt follows.
    fn report_retry(&self, error: Option<&Error<Op::Error>>, verdict: Verdict, delay: Duration) {
        let retrying = Retrying::new(self.cx.attempt(), verdict, delay);
        if let Some(observer) = self.op.listener().observer() {
            observer.on_event(&Event::RetryScheduled {
                policy: self.inner.settings.name,
                pipeline: None,
                attempt: retrying.attempt(),
                rejected: error.and_then(Error::reason),
                delay,
                verdict,
            });
        }
        if let Some(error) = error {
            self.hook.call(error, &retrying);
        }
        if let Some(hook) = &self.inner.settings.on_retry {
            hook(&retrying);
        }
    }

    /// Returns the outcome of a call whose last attempt had `outcome`: that of the last executed attempt.
    fn outcome_of_call(&mut self, mut outcome: OutcomeOf<Op>) -> OutcomeOf<Op> {
        if !outcome.is_rejected() || self.inner.settings.return_rejection {
            return outcome;
        }
        let Some(mut last) = self.last.take() else {
            return outcome;
        };
        let clock = &self.inner.clock;
        let waited = (outcome.finished(clock)).saturating_duration_since(last.finished(clock));
        self.discard(outcome);
        // A new outcome, because the cached end time of the old one is out of date.
        Outcome::new(last.result, last.verdict.later(waited))
    }

    /// Returns the outcome of the call to the outer layers. If it is a failure that one of them records, returns what
    /// the failure cost in the budget.
    fn hand_over(&mut self, outcome: OutcomeOf<Op>) -> OutcomeOf<Op> {
        if let (Some(call), false) = (&mut self.call, outcome.is_rejected()) {
            call.leave_to_outer(std::mem::take(&mut self.failure_cost));
        }
        outcome
    }

    /// Keeps the outcome of an attempt that was executed.
    fn keep(&mut self, outcome: OutcomeOf<Op>) {
        if outcome.is_rejected() {
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

    /// Returns the delay before the next attempt, and whether it may follow. Reserves it in the budget.
    fn plan(
        &mut self,
        verdict: &Verdict,
        rejection: Option<&Error<Op::Error>>,
        now: Instant,
    ) -> (Duration, Result<(), StopReason>) {
        let (limits, started) = (self.limits(), rejection.is_none());
        let call = Call {
            idempotent: self.cx.is_idempotent(),
            repeatable: self.cx.is_repeatable() && self.op.is_repeatable(),
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
        // While inner layers have rejected all attempts, the next one costs nothing: none has reached the dependency,
        // which the budget protects.
        let failed = match started {
            true => Some(verdict.class()),
            false => self.last.as_ref().map(|last| last.verdict.class()),
        };
        if let (Some(call), Some(class)) = (&mut self.call, failed) {
            self.extra = call.reserve_in(class, &mut self.cx);
            if self.extra.is_none() {
                return (delay, Err(StopReason::BudgetEmpty));
            }
        }
        (delay, Ok(()))
    }

    fn limits(&mut self) -> Limits {
        let Inner {
            settings, clock, ..
        } = self.inner;
        let start = self.cx.start(clock);
        Limits {
            max_attempts: settings.max_attempts,
            max_hint: settings.max_hint,
            latest_start: settings
                .max_elapsed
                .map_or(Instant::FAR_FUTURE, |limit| start + limit),
            deadline: self.cx.deadline(clock),
        }
    }

    /// Returns the wait before the next attempt, and the wait that the server or the rejecting layer asked for.
    fn wait(&mut self, verdict: &Verdict, rejection: Option<&Error<Op::Error>>) -> Wait {
        let Inner { settings, rng, .. } = self.inner;
        let backoff = match verdict.class() {
            ErrorClass::Throttled if rejection.is_none() => &settings.throttled_backoff,
            _ => &settings.backoff,
        };
        let (progress, unit) = (std::cell::RefCell::new(&mut self.progress), || rng.unit());
        let computed = || progress.borrow_mut().next(backoff, unit);
        let spread = || progress.borrow_mut().next_spread(backoff, unit);
        let wait = match (rejection, verdict.hint()) {
            (Some(rejection), _) => match rejection.retry_after() {
                // The rejecting layer knows exactly when it admits a call.
                Some(wait) => Wait {
                    delay: wait,
                    earliest: wait,
                    is_obeyed: false,
                },
                None => Wait::of(computed()),
            },
            (None, Some(hint)) => Wait::hinted(settings.hint, hint, computed, spread),
            (None, None) => Wait::of(computed()),
        };
        if verdict.resets_backoff() {
            self.progress = Progress::new();
        }
        match &settings.delay {
            Some(replace) => {
                let retrying = Retrying::new(self.cx.attempt(), *verdict, wait.delay);
                Wait::of(replace(&retrying))
            }
            None => wait,
        }
    }

    /// Returns the context of the attempt after a wait.
    fn next_attempt(&mut self) -> Context {
        if let Some(extra) = &mut self.extra {
            extra.begin();
        }
        self.cx.refresh(&self.inner.clock);
        self.cx = self.cx.with_attempt(self.cx.attempt().saturating_add(1));
        self.cx
    }
}

/// Waits for `delay`, and lets other tasks run even if that is zero.
fn sleep(clock: &ClockHandle, now: Instant, delay: Duration) -> Sleep {
    if delay.is_zero() {
        Sleep::yield_once()
    } else {
        clock.sleep_until(now + delay)
    }
}
