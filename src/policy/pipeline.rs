//! A stack with a name, an observer and options for single calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::either::Either;
use super::operation::Counted;
use super::{Context, Layer, Misorder, Operation, Outcome, Policy, Priority, check};
use crate::clock::{BlockingClock, ClockHandle};
use crate::event::{Ending, Event, Observer};
use crate::keyed::Evictable;

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
        self.observer = Some(Arc::new(observer));
        self
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

    /// Lists the known mistakes in the order of the layers, each with its reason. Empty when there
    /// is none.
    ///
    /// For stacks that take any operation. One with a classifier for a certain type of results says
    /// which: [`check_for`](Self::check_for).
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
    pub fn check(&self) -> Vec<Misorder>
    where
        P: Policy<(), ()>,
    {
        self.check_for::<(), ()>()
    }

    /// As [`check`](Self::check), for a stack whose operations return `Result<T, E>`.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Classify, Error, ManualClock, Pipeline, Retry, Verdict};
    ///
    /// fn verdict(result: Result<&u16, &Error<String>>) -> Verdict {
    ///     match result {
    ///         Ok(500..) => Verdict::transient(),
    ///         other => Verdict::default_for(other),
    ///     }
    /// }
    ///
    /// let retry = Retry::builder().clock(ManualClock::new()).build()?;
    /// let twice = Pipeline::new((retry.clone(), retry, Classify::by(verdict)));
    /// assert_eq!(twice.check_for::<u16, String>().len(), 1);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn check_for<T, E>(&self) -> Vec<Misorder>
    where
        P: Policy<T, E>,
    {
        let mut layers = Vec::new();
        self.policies.describe(&mut layers);
        check::misorders(&layers)
    }

    /// Runs the operation and tells the observer how it ended.
    async fn run_observed<T, E, Op>(
        &self,
        op: Op,
        mut cx: Context,
        observer: &dyn Observer,
    ) -> Outcome<T, E>
    where
        P: Policy<T, E>,
        Op: Operation<T, E>,
    {
        let attempts = AtomicU32::new(0);
        let clock = clock_of(&self.policies);
        let start = cx.now(&clock);
        let observed = Observed { op, observer };
        let mut outcome = self
            .policies
            .run(Counted::new(observed, &attempts), cx)
            .await;
        observer.on_event(&Event::CallFinished {
            policy: self.name,
            ending: Ending::of(&outcome.result),
            attempts: attempts.load(Ordering::Relaxed),
            elapsed: outcome.finished(&clock).saturating_duration_since(start),
        });
        outcome
    }
}

fn clock_of<T, E, P: Policy<T, E>>(policies: &P) -> ClockHandle {
    policies
        .clock()
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

impl<T, E, P: Policy<T, E>> Policy<T, E> for Pipeline<P> {
    #[inline]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        match &self.observer {
            None => Either::Left {
                future: self.policies.run(op, cx),
            },
            Some(observer) => Either::Right {
                future: self.run_observed(op, cx, &**observer),
            },
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        self.policies.clock()
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        self.policies.describe(layers);
    }
}

/// An operation somebody listens to.
#[derive(Clone, Copy)]
struct Observed<'o, Op> {
    op: Op,
    observer: &'o dyn Observer,
}

impl<'o, T, E, Op: Operation<T, E>> Operation<T, E> for Observed<'o, Op> {
    type Listener = &'o dyn Observer;

    const LOOKS_AT_TIME: bool = Op::LOOKS_AT_TIME;

    #[inline(always)]
    fn attempt(self, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        self.op.attempt(cx)
    }

    #[inline(always)]
    fn listener(self) -> &'o dyn Observer {
        self.observer
    }
}

/// What is different about one call. Passed to [`Pipeline::with`].
///
/// Defaults: no deadline, idempotent, priority normal, cost 1. Inside a call that has options already,
/// those not set here stay as they are; the earlier deadline wins, and a call that is not idempotent
/// stays so.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions {
    deadline: Option<Duration>,
    idempotent: bool,
    priority: Option<Priority>,
    cost: Option<u32>,
}

impl CallOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            deadline: None,
            idempotent: true,
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

/// A pipeline with options for single calls. Made by [`Pipeline::with`].
#[derive(Debug)]
pub struct With<'a, P> {
    pipeline: &'a Pipeline<P>,
    options: CallOptions,
}

impl<T, E, P: Policy<T, E>> Policy<T, E> for With<'_, P> {
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        let mut cx = cx
            .with_idempotent(self.options.idempotent && cx.is_idempotent())
            .with_priority(self.options.priority.unwrap_or(cx.priority()))
            .with_cost(self.options.cost.unwrap_or(cx.cost()));
        if let Some(within) = self.options.deadline {
            let clock = clock_of(&self.pipeline.policies);
            let deadline = cx.now(&clock) + within;
            cx.tighten(&clock, deadline);
        }
        self.pipeline.run(op, cx)
    }

    fn clock(&self) -> Option<ClockHandle> {
        self.pipeline.policies.clock()
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        self.pipeline.policies.describe(layers);
    }
}
