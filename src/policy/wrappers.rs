//! References, pointers and `Option` of policies.

use std::rc::Rc;
use std::sync::Arc;

use super::calls::{AtMostOnce, Policy};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::either::Either;
use super::operation::{Operation, Run};
use crate::clock::ClockHandle;

impl<P: ?Sized> Policy for &P {}

impl<P: AtMostOnce + ?Sized> AtMostOnce for &P {}

impl<'p, P: ?Sized, Op: Operation> Run<Op> for &&'p P
where
    &'p P: Run<Op>,
{
    type Future = <&'p P as Run<Op>>::Future;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        (*self).run(op, cx)
    }
}

impl<P: Describe + ?Sized> Describe for &P {
    fn clock(&self) -> Option<ClockHandle> {
        (**self).clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        (**self).describe(layers);
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        (**self).clocks(clocks);
    }
}

/// Policies behind a pointer that owns them.
macro_rules! pointers {
    ($($pointer:ident)*) => {$(
        impl<P: Policy + ?Sized> Policy for $pointer<P> {}

        impl<P: AtMostOnce + ?Sized> AtMostOnce for $pointer<P> {}

        impl<'a, P: ?Sized, Op: Operation> Run<Op> for &'a $pointer<P>
        where
            &'a P: Run<Op>,
        {
            type Future = <&'a P as Run<Op>>::Future;

            #[inline(always)]
            fn run(self, op: Op, cx: Context) -> Self::Future {
                (**self).run(op, cx)
            }
        }

        impl<P: Describe + ?Sized> Describe for $pointer<P> {
            fn clock(&self) -> Option<ClockHandle> {
                (**self).clock()
            }

            fn describe(&self, layers: &mut Vec<LayerKind>) {
                (**self).describe(layers);
            }

            fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
                (**self).clocks(clocks);
            }
        }
    )*};
}

pointers!(Arc Box Rc);

/// `None` runs the operation unchanged, which serves as a switch for configuration.
impl<P> Policy for Option<P> {}

impl<P: AtMostOnce> AtMostOnce for Option<P> {}

impl<'a, P, Op: Operation> Run<Op> for &'a Option<P>
where
    &'a P: Run<Op>,
{
    type Future = Either<<&'a P as Run<Op>>::Future, Op::Attempt>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        match self {
            Some(policy) => Either::Left {
                future: policy.run(op, cx),
            },
            None => Either::Right {
                future: op.attempt(cx),
            },
        }
    }
}

impl<P: Describe> Describe for Option<P> {
    fn clock(&self) -> Option<ClockHandle> {
        self.as_ref().and_then(Describe::clock)
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        if let Some(policy) = self {
            policy.describe(layers);
        }
    }

    fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
        if let Some(policy) = self {
            policy.clocks(clocks);
        }
    }
}
