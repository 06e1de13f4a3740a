//! A stack with a name, an observer and options for single calls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::calls::{AtMostOnce, Policy};
use super::check::{self, OrderWarning};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::operation::{Operation, Run, Tried};
use super::outcome::Outcome;
use super::tuple::Under;
use crate::clock::{BlockingClock, ClockHandle, blocking};
use crate::error::{Error, TimedOut};
use crate::event::{Ending, Event, Observer};
use crate::instant::Instant;
use crate::keyed::Evictable;
use crate::priority::Priority;

/// A policy, usually a tuple of them, with a name for logs and metrics, an observer, options for
/// single calls, and a check of the order.
///
/// It is a policy itself. Without an observer it adds nothing to a call.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::{CallOptions, ManualClock, Pipeline, Policy, Retry, Timeout};
///
/// let clock = ManualClock::new();
/// let pipeline = Pipeline::new((
///     Timeout::builder().after(Duration::from_secs(10)).clock(clock.clone()).build()?,
///     Retry::builder().clock(clock.clone()).build()?,
/// ))
/// .named("payments");
///
/// // A charge must not be repeated once it may have happened.
/// let once = CallOptions::new().idempotent(false).deadline(Duration::from_secs(1));
/// let result = clock.block_on(pipeline.with(once).call(|| async { Ok::<_, ()>("charged") }));
/// assert_eq!(result, Ok("charged"));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Pipeline<P> {
    policies: P,
    name: &'static str,
    observer: Option<Arc<dyn Observer>>,
}

impl<P: Evictable> Evictable for Pipeline<P> {
    fn evictable_in(&self) -> Option<Duration> {
        self.policies.evictable_in()
    }
}

impl<P> Pipeline<P> {
    /// A pipeline of these policies, named `pipeline`.
    pub const fn new(policies: P) -> Self {
        Self {
            policies,
            name: "pipeline",
            observer: None,
        }
    }

    /// The same pipeline with a name for logs and metrics.
    #[must_use]
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The same pipeline with an observer. It hears every layer, and the end of every call, for
    /// which the clock is read at the start and at the end.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(blocking::shielded(observer));
        self
    }

    /// A pipeline whose observer, if there is one, has been shielded.
    pub(crate) const fn assembled(
        policies: P,
        name: &'static str,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            policies,
            name,
            observer,
        }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The policies inside.
    pub const fn policies(&self) -> &P {
        &self.policies
    }

    /// This pipeline with options for the calls made through the value returned.
    pub const fn with(&self, options: CallOptions) -> With<'_, P> {
        With {
            pipeline: self,
            options,
        }
    }

    /// Puts a stack that is made for one call inside this pipeline: it gets the pipeline's name, observer
    /// and policies, the latter outside of it. Does not allocate.
    ///
    /// # Example
    ///
    /// Layers with a key need no type names:
    ///
    /// ```
    /// use backstop::{CircuitBreaker, Keyed, ManualClock, Pipeline, Policy, Retry};
    ///
    /// let clock = ManualClock::new();
    /// let template = CircuitBreaker::builder().clock(clock.clone());
    /// template.clone().build()?;
    /// let breakers = Keyed::new(move |_: &String| template.clone().build().expect("checked"));
    /// let pipeline = Pipeline::new(Retry::builder().clock(clock.clone()).build()?).named("hosts");
    ///
    /// let answer = clock.block_on(async {
    ///     pipeline.around((&breakers.get("a.example"),)).call(|| async { Ok::<_, ()>(7) }).await
    /// });
    /// assert_eq!(answer, Ok(7));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn around<S>(&self, stack: S) -> Around<'_, P, S> {
        self.with(CallOptions::new()).around(stack)
    }

    /// Lists the known mistakes in the order of the layers, each with its reason and the remedy. Empty
    /// when there is none.
    ///
    /// | mistake | why |
    /// |---|---|
    /// | a timeout in one that is not longer | it never fires |
    /// | a total shorter than two attempts' timeouts, around a retry | no retry after a timeout has time to finish |
    /// | a timeout only outside the breaker | a call cut from outside is neutral, so hangs never open it |
    /// | a retry in a retry | attempts multiply |
    /// | a retry inside a breaker, a throttle or an adaptive bulkhead | they take all attempts for one call |
    /// | a rate limiter outside a bulkhead | calls that never run have spent their tokens |
    /// | a load shedder by queue delay outside the queue | it sees no delay |
    /// | a classifier with no layer outside that reads verdicts | it changes nothing |
    ///
    /// It sees the layers of this pipeline only, and not timeouts of the operation's own.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::{Pipeline, Timeout};
    ///
    /// let pipeline = Pipeline::new((
    ///     Timeout::after(Duration::from_secs(2)),
    ///     Timeout::after(Duration::from_secs(10)),
    /// ));
    /// let found = pipeline.check();
    /// assert_eq!(found.len(), 1);
    /// assert_eq!(
    ///     found[0].to_string(),
    ///     "layer 1 (timeout) inside layer 0 (timeout): the inner one is not shorter, so it never fires"
    /// );
    /// ```
    pub fn check(&self) -> Vec<OrderWarning>
    where
        P: Describe,
    {
        let mut layers = Vec::new();
        self.policies.describe(&mut layers);
        check::order_warnings(&layers)
    }
}

/// The clock of these policies, or the default one if they read none.
fn clock_of(clock: Option<ClockHandle>) -> ClockHandle {
    clock
        .or_else(ClockHandle::preset)
        .unwrap_or_else(|| BlockingClock.into())
}

impl<P: fmt::Debug> fmt::Debug for Pipeline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("policies", &self.policies)
            .field("observed", &self.observer.is_some())
            .finish()
    }
}

impl<P> Policy for Pipeline<P> {}

impl<P: AtMostOnce> AtMostOnce for Pipeline<P> {}

impl<'a, P, Op> Run<Op> for &'a Pipeline<P>
where
    P: Describe,
    Op: Operation,
    &'a P: Run<Op> + Run<Observed<'a, Op>>,
{
    type Future = PipelineFuture<'a, &'a P, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.run_stack(&self.policies, || self.policies.clock(), op, cx)
    }
}

impl<P> Pipeline<P> {
    /// Runs the operation under `stack`, and tells the observer how it ended.
    #[inline]
    fn run_stack<'a, R, Op>(
        &'a self,
        stack: R,
        clock: impl FnOnce() -> Option<ClockHandle>,
        op: Op,
        mut cx: Context,
    ) -> PipelineFuture<'a, R, Op>
    where
        Op: Operation,
        R: Run<Op> + Run<Observed<'a, Op>>,
    {
        let Some(observer) = &self.observer else {
            return PipelineFuture::Plain {
                run: stack.run(op, cx),
            };
        };
        let observer = &**observer;
        let clock = clock_of(clock());
        let start = cx.now(&clock);
        let before = op.started();
        PipelineFuture::Observed {
            run: stack.run(Observed { op, observer }, cx),
            call: ObservedCall {
                name: self.name,
                clock,
                start,
                before,
                op,
                observer,
            },
        }
    }
}

impl<P: Describe> Describe for Pipeline<P> {
    fn clock(&self) -> Option<ClockHandle> {
        self.policies.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.policies.describe(layers);
    }
}

pin_project! {
    /// A run of a [`Pipeline`].
    #[project = PipelineProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum PipelineFuture<'a, R, Op>
    where
        Op: Operation,
        R: Run<Op>,
        R: Run<Observed<'a, Op>>,
    {
        Plain {
            #[pin]
            run: <R as Run<Op>>::Future,
        },
        Observed {
            #[pin]
            run: <R as Run<Observed<'a, Op>>>::Future,
            call: ObservedCall<'a, Op>,
        },
        Finished,
    }
}

/// A call whose end is told to an observer.
pub struct ObservedCall<'a, Op> {
    name: &'static str,
    clock: ClockHandle,
    start: Instant,
    /// How many attempts this call had made when it came to the pipeline.
    before: u32,
    op: Op,
    observer: &'a dyn Observer,
}

impl<'a, R, Op> Future for PipelineFuture<'a, R, Op>
where
    Op: Operation,
    R: Run<Op> + Run<Observed<'a, Op>>,
{
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.as_mut().project() {
            PipelineProj::Plain { run } => run.poll(task),
            PipelineProj::Observed { run, call } => {
                let mut outcome = ready!(run.poll(task));
                let event = Event::CallFinished {
                    policy: call.name,
                    ending: Ending::of(&outcome.result),
                    attempts: call.op.started().wrapping_sub(call.before),
                    elapsed: outcome
                        .finished(&call.clock)
                        .saturating_duration_since(call.start),
                };
                let observer = call.observer;
                self.set(Self::Finished);
                observer.on_event(&event);
                Poll::Ready(outcome)
            }
            PipelineProj::Finished => Poll::Pending,
        }
    }
}

impl<'a, R, Op> fmt::Debug for PipelineFuture<'a, R, Op>
where
    Op: Operation,
    R: Run<Op> + Run<Observed<'a, Op>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineFuture").finish_non_exhaustive()
    }
}

impl<Op> fmt::Debug for ObservedCall<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedCall")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An operation with an observer.
#[derive(Clone, Copy)]
pub struct Observed<'o, Op> {
    op: Op,
    observer: &'o dyn Observer,
}

impl<Op> fmt::Debug for Observed<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl<'o, Op: Operation> Operation for Observed<'o, Op> {
    type Value = Op::Value;
    type Error = Op::Error;
    type Attempt = Op::Attempt;
    type Listener = &'o dyn Observer;

    const READS_TIME: bool = Op::READS_TIME;

    #[inline(always)]
    fn attempt(self, cx: Context) -> Op::Attempt {
        self.op.attempt(cx)
    }

    #[inline(always)]
    fn listener(self) -> &'o dyn Observer {
        self.observer
    }

    #[inline(always)]
    fn started(self) -> u32 {
        self.op.started()
    }

    #[inline(always)]
    fn tried(self) -> Tried {
        self.op.tried()
    }

    #[inline(always)]
    fn keep_tried(self, tried: Tried) {
        self.op.keep_tried(tried);
    }

    fn discard(self, error: Error<Op::Error>) {
        self.op.discard(error);
    }
}

/// What is different about one call. Passed to [`Pipeline::with`].
///
/// Defaults: no deadline, idempotent, repeatable, priority normal, cost 1. Inside a call that has options
/// already, those not set here stay as they are; the earlier deadline wins, and a call that is not
/// idempotent or not repeatable stays so.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions {
    deadline: Option<Duration>,
    idempotent: bool,
    repeatable: bool,
    priority: Option<Priority>,
    cost: Option<u32>,
}

impl CallOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            deadline: None,
            idempotent: true,
            repeatable: true,
            priority: None,
            cost: None,
        }
    }

    /// How long the call may take, from its start. Timeouts become no longer than that, and nothing
    /// waits beyond it. An operation is only cut off by a [`Timeout`](crate::Timeout) in the stack.
    #[must_use]
    pub const fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Whether the operation may be repeated although it may have been executed. Default `true`.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Whether the operation can be run again at all. `false` for one that consumes what it sends: no
    /// policy makes a second attempt. Default `true`.
    #[must_use]
    pub const fn repeatable(mut self, repeatable: bool) -> Self {
        self.repeatable = repeatable;
        self
    }

    /// How important the call is to load shedders and priority queues. Default normal.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// How many units of a rate limit or a weighted bulkhead the call takes. Default 1.
    #[must_use]
    pub const fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }
}

impl Default for CallOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl CallOptions {
    /// The context of a call with these options, and its deadline if these options set it. `clock` is asked
    /// only if there is one.
    fn apply(
        &self,
        cx: Context,
        clock: impl FnOnce() -> Option<ClockHandle>,
    ) -> (Context, Option<Duration>) {
        let mut own = None;
        let mut cx = cx
            .with_idempotent(self.idempotent && cx.is_idempotent())
            .with_repeatable(self.repeatable && cx.is_repeatable())
            .with_priority(self.priority.unwrap_or(cx.priority()))
            .with_cost(self.cost.unwrap_or(cx.cost()));
        if let Some(within) = self.deadline {
            let clock = clock_of(clock());
            let deadline = cx.now(&clock) + within;
            own = (deadline <= cx.deadline(&clock)).then_some(within);
            cx.tighten(&clock, deadline);
        }
        (cx, own)
    }
}

/// A pipeline with options for single calls. Made by [`Pipeline::with`].
#[derive(Debug)]
pub struct With<'a, P> {
    pipeline: &'a Pipeline<P>,
    options: CallOptions,
}

impl<'a, P> With<'a, P> {
    /// As [`Pipeline::around`], with these options.
    pub const fn around<S>(&self, stack: S) -> Around<'a, P, S> {
        Around {
            pipeline: self.pipeline,
            options: self.options,
            stack,
        }
    }
}

impl<P> Policy for With<'_, P> {}

impl<P: AtMostOnce> AtMostOnce for With<'_, P> {}

impl<'p, P, Op> Run<Op> for &With<'p, P>
where
    P: Describe,
    Op: Operation,
    &'p Pipeline<P>: Run<Op>,
{
    type Future = WithFuture<<&'p Pipeline<P> as Run<Op>>::Future>;

    fn run(self, op: Op, cx: Context) -> Self::Future {
        let (cx, deadline) = self.options.apply(cx, || self.clock());
        WithFuture {
            run: self.pipeline.run(op, cx),
            name: self.pipeline.name,
            deadline,
        }
    }
}

impl<P: Describe> Describe for With<'_, P> {
    fn clock(&self) -> Option<ClockHandle> {
        self.pipeline.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.pipeline.describe(layers);
    }
}

/// A stack for one call inside a pipeline. Made by [`Pipeline::around`].
#[derive(Debug)]
pub struct Around<'p, P, S> {
    pipeline: &'p Pipeline<P>,
    options: CallOptions,
    stack: S,
}

impl<P, S> Policy for Around<'_, P, S> {}

impl<P: AtMostOnce, S: AtMostOnce> AtMostOnce for Around<'_, P, S> {}

impl<'a, P, S, Op> Run<Op> for &'a Around<'_, P, S>
where
    P: Describe,
    S: Describe,
    Op: Operation,
    Inside<'a, P, S>: Run<Op> + Run<Observed<'a, Op>>,
{
    type Future = WithFuture<PipelineFuture<'a, Inside<'a, P, S>, Op>>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        let inside = Inside {
            outer: &self.pipeline.policies,
            inner: &self.stack,
        };
        let (cx, deadline) = self.options.apply(cx, || self.clock());
        WithFuture {
            run: self.pipeline.run_stack(inside, || self.clock(), op, cx),
            name: self.pipeline.name,
            deadline,
        }
    }
}

impl<P: Describe, S: Describe> Describe for Around<'_, P, S> {
    fn clock(&self) -> Option<ClockHandle> {
        self.pipeline.clock().or_else(|| self.stack.clock())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.pipeline.describe(layers);
        self.stack.describe(layers);
    }
}

/// A stack inside the policies of a pipeline.
#[derive(Debug)]
pub struct Inside<'a, P, S> {
    outer: &'a P,
    inner: &'a S,
}

// Derived, these would ask for `P: Copy`.
impl<P, S> Clone for Inside<'_, P, S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<P, S> Copy for Inside<'_, P, S> {}

impl<'a, P, S, Op> Run<Op> for Inside<'a, P, S>
where
    Op: Operation,
    &'a S: Run<Op>,
    &'a P: Run<Under<&'a S, Op>>,
{
    type Future = <&'a P as Run<Under<&'a S, Op>>>::Future;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.outer.run(Under::new(self.inner, op), cx)
    }
}

pin_project! {
    /// A run with options.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct WithFuture<Fut> {
        #[pin]
        run: Fut,
        name: &'static str,
        // The time that the options give the call, if no earlier deadline is in force.
        deadline: Option<Duration>,
    }
}

impl<T, E, Fut: Future<Output = Outcome<T, E>>> Future for WithFuture<Fut> {
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let this = self.project();
        let outcome = ready!(this.run.poll(task));
        Poll::Ready(match (&outcome.result, *this.deadline) {
            (Err(Error::TimedOut(timed_out)), Some(limit)) if timed_out.is_by_deadline() => {
                Outcome::timed_out(TimedOut::new(this.name, limit))
            }
            _ => outcome,
        })
    }
}
