//! The stack around an operation.

use super::Standard;
use super::stack::Layers;
use crate::clock::ClockHandle;
use crate::policy::{Context, Describe, LayerKind, Operation, Pipeline, Policy, Run};

impl Policy for Standard {}

impl<'a, Op: Operation> Run<Op> for &'a Standard
where
    &'a Pipeline<Layers>: Run<Op>,
{
    type Future = <&'a Pipeline<Layers> as Run<Op>>::Future;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        self.inner.current().pipeline.run(op, cx)
    }
}

impl Describe for Standard {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.identity.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.inner.current().pipeline.describe(layers);
    }
}
