//! Stacks created for a single call.

use std::fmt;

use super::observed::{Observed, PipelineFuture};
use super::options::{CallOptions, With, WithFuture};
use super::{CallClock, Pipeline};
use crate::clock::ClockHandle;
use crate::policy::tuple::Under;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Policy, Run};

/// A stack for one call inside a pipeline. Returned by [`Pipeline::around`].
///
/// The pipeline itself stays as it is:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// use backstop::{Bulkhead, Pipeline};
///
/// let pipeline = Pipeline::new(());
/// pipeline.around(Bulkhead::new(5));
/// ```
#[must_use = "only calls through this value run under both stacks"]
pub struct Around<'p, P, S> {
    pipeline: &'p Pipeline<P>,
    options: CallOptions,
    stack: S,
    clock: CallClock,
}

impl<P> Pipeline<P> {
    /// Returns a stack for one call inside this pipeline. The stack gets the pipeline's name and observer, and the
    /// pipeline's policies are outside it. Does not allocate.
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
    /// let pipeline = Pipeline::new(Retry::builder().clock(clock.clone()).build()?).with_name("hosts");
    ///
    /// let answer = clock.block_on(async {
    ///     pipeline.around((&breakers.get("a.example"),)).call(|| async { Ok::<_, ()>(7) }).await
    /// });
    /// assert_eq!(answer, Ok(7));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn around<S>(&self, stack: S) -> Around<'_, P, S> {
        Around {
            pipeline: self,
            options: CallOptions::new(),
            stack,
            clock: CallClock::new(),
        }
    }
}

impl<'a, P> With<'a, P> {
    /// Like [`Pipeline::around`], with these options.
    pub const fn around<S>(&self, stack: S) -> Around<'a, P, S> {
        Around {
            pipeline: self.pipeline,
            options: self.options,
            stack,
            clock: CallClock::new(),
        }
    }
}

impl<P: fmt::Debug, S: fmt::Debug> fmt::Debug for Around<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around")
            .field("pipeline", self.pipeline)
            .field("options", &self.options)
            .field("stack", &self.stack)
            .finish()
    }
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
        let clock = || self.clock.get(|| self.clock());
        let run = self.pipeline.run_stack(inside, clock, op, cx);
        WithFuture::new(run, self.pipeline.name, deadline)
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

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        self.pipeline.clocks(clocks);
        self.stack.clocks(clocks);
    }
}

/// A stack inside the policies of a pipeline.
#[derive(Debug)]
pub struct Inside<'a, P, S> {
    outer: &'a P,
    inner: &'a S,
}

// Derived implementations would require `P: Copy`.
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
