//! A stack with a name, an observer and options for single calls.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::calls::{AtMostOnce, Policy};
use super::check::{self, OrderWarning};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::operation::{Operation, Run};
use crate::clock::{BlockingClock, ClockHandle};
use crate::event::Observer;
use crate::keyed::Evictable;

mod around;
mod observed;
mod options;

pub use self::around::Around;
use self::observed::{Observed, PipelineFuture, PipelineObserver};
pub use self::options::{CallOptions, With};

/// A policy, usually a tuple of them, with a name for logs and metrics, an observer, options for
/// single calls, and a check of the order.
///
/// It is a policy itself. Without an observer it adds nothing to a call. With one, it reports each event of
/// its layers and the end of each call ([`Event::CallFinished`](crate::Event::CallFinished)), under its name.
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
/// .with_name("payments");
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
    observer: Option<PipelineObserver>,
    clock: CallClock,
}

impl<P: Evictable> Evictable for Pipeline<P> {
    fn evictable_in(&self) -> Option<Duration> {
        self.policies.evictable_in()
    }

    fn share_among_keys(&self) {
        self.policies.share_among_keys();
    }
}

impl<P> Pipeline<P> {
    /// Returns a pipeline of these policies, named `pipeline`.
    pub const fn new(policies: P) -> Self {
        Self {
            policies,
            name: "pipeline",
            observer: None,
            clock: CallClock::new(),
        }
    }

    /// Returns the pipeline with another name for logs and metrics.
    #[must_use]
    pub fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self.observer = self.observer.map(|observer| observer.with_name(name));
        self
    }

    /// Returns the pipeline with an observer, which replaces the previous one. It receives the events of all layers
    /// and the end of each call, for which the clock is read at the start and at the end.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(PipelineObserver::new(self.name, observer));
        self
    }

    /// Returns a pipeline whose observer, if any, is already shielded.
    pub(crate) fn assembled(
        policies: P,
        name: &'static str,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            policies,
            name,
            observer: observer.map(|observer| PipelineObserver::of_shielded(name, observer)),
            clock: CallClock::new(),
        }
    }

    /// Returns the name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the policies inside.
    pub const fn policies(&self) -> &P {
        &self.policies
    }

    /// Returns the known mistakes in the order of the layers, each with its reason and the remedy.
    ///
    /// | mistake | why |
    /// |---|---|
    /// | a timeout in one that is not longer | it never fires |
    /// | a total shorter than two attempts' timeouts, around a retry | no retry after a timeout has time to finish |
    /// | timeouts only outside a breaker, a throttle, or endpoints | a call cut from outside is neutral, so hangs do not count |
    /// | a retry in a retry | attempts multiply |
    /// | a retry inside a breaker, a throttle or an adaptive bulkhead | they count all attempts as one call |
    /// | a retry inside a hedge | each copy is retried |
    /// | a hedge inside a hedge | copies are not copied |
    /// | a retry or a hedge inside endpoints | all attempts go to one node |
    /// | endpoints inside chaos | injected faults say nothing about a node |
    /// | a fallback inside a retry | nothing is left to retry |
    /// | a coalesce inside a breaker | a shared result counts once for each call that gets it |
    /// | a rate limiter outside a bulkhead | calls that never run have spent their tokens |
    /// | a load shedder by queue delay outside the queue | it sees no delay |
    /// | a classifier with no layer outside that reads verdicts | it changes nothing |
    /// | layers on different clocks | a test that moves one clock leaves the other layers behind |
    ///
    /// It checks only the layers of this pipeline, and does not know timeouts inside the operation.
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
        check::warnings(&self.policies)
    }
}

/// Returns this clock, or the default one for policies without a clock.
fn clock_of(clock: Option<ClockHandle>) -> ClockHandle {
    clock
        .or_else(ClockHandle::preset)
        .unwrap_or_else(|| BlockingClock.into())
}

/// The clock on which observed calls are timed: that of the policies, found by the first call.
#[derive(Clone)]
struct CallClock(OnceLock<ClockHandle>);

impl CallClock {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Returns the clock. `of_policies` is called outside the lock.
    #[inline]
    fn get(&self, of_policies: impl FnOnce() -> Option<ClockHandle>) -> &ClockHandle {
        self.0.get().unwrap_or_else(|| {
            let clock = clock_of(of_policies());
            self.0.get_or_init(|| clock)
        })
    }
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
        let clock = || self.clock.get(|| self.policies.clock());
        self.run_stack(&self.policies, clock, op, cx)
    }
}

impl<P> Pipeline<P> {
    /// Runs the operation under `stack`, and reports its end to the observer.
    #[inline]
    fn run_stack<'a, R, Op>(
        &'a self,
        stack: R,
        clock: impl FnOnce() -> &'a ClockHandle,
        op: Op,
        cx: Context,
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
        PipelineFuture::observed(stack, op, cx, observer, clock())
    }
}

impl<P: Describe> Describe for Pipeline<P> {
    fn clock(&self) -> Option<ClockHandle> {
        self.policies.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.policies.describe(layers);
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        self.policies.clocks(clocks);
    }
}
