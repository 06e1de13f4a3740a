//! Tuples of policies: the first is the outermost.

use std::future::Future;
use std::time::Duration;

use super::{Context, Layer, Operation, Outcome, Policy};
use crate::clock::ClockHandle;
use crate::keyed::Evictable;

/// An operation under a policy, as an operation for the policy outside it.
struct Under<'a, P, Op> {
    policy: &'a P,
    op: Op,
}

// Derived, these would ask for `P: Copy`.
impl<P, Op: Copy> Clone for Under<'_, P, Op> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P, Op: Copy> Copy for Under<'_, P, Op> {}

impl<T, E, P: Policy<T, E>, Op: Operation<T, E>> Operation<T, E> for Under<'_, P, Op> {
    type Listener = Op::Listener;

    #[inline(always)]
    fn attempt(self, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        self.policy.run(self.op, cx)
    }

    #[inline(always)]
    fn listener(self) -> Op::Listener {
        self.op.listener()
    }
}

/// `under!(op; a b c)`: the operation that `a` around `b` around `c` around `op` is.
macro_rules! under {
    ($op:expr;) => { $op };
    ($op:expr; $policy:ident $($inner:ident)*) => {
        Under { policy: $policy, op: under!($op; $($inner)*) }
    };
}

macro_rules! tuples {
    ($($outer:ident $($inner:ident)*;)*) => {$(
        #[allow(non_snake_case)]
        impl<T, E, $outer, $($inner,)*> Policy<T, E> for ($outer, $($inner,)*)
        where
            $outer: Policy<T, E>,
            $($inner: Policy<T, E>,)*
        {
            #[inline(always)]
            fn run<Op: Operation<T, E>>(
                &self,
                op: Op,
                cx: Context,
            ) -> impl Future<Output = Outcome<T, E>> {
                let ($outer, $($inner,)*) = self;
                $outer.run(under!(op; $($inner)*), cx)
            }

            fn clock(&self) -> Option<ClockHandle> {
                let ($outer, $($inner,)*) = self;
                None.or_else(|| $outer.clock())$(.or_else(|| $inner.clock()))*
            }

            fn describe(&self, layers: &mut Vec<Layer>) {
                let ($outer, $($inner,)*) = self;
                $outer.describe(layers);
                $($inner.describe(layers);)*
            }
        }

        #[allow(non_snake_case)]
        impl<$outer: Evictable, $($inner: Evictable,)*> Evictable for ($outer, $($inner,)*) {
            fn evictable_in(&self) -> Option<Duration> {
                let ($outer, $($inner,)*) = self;
                let all = $outer.evictable_in()?;
                $(let all = all.max($inner.evictable_in()?);)*
                Some(all)
            }
        }
    )*};
}

tuples! {
    P1;
    P1 P2;
    P1 P2 P3;
    P1 P2 P3 P4;
    P1 P2 P3 P4 P5;
    P1 P2 P3 P4 P5 P6;
    P1 P2 P3 P4 P5 P6 P7;
    P1 P2 P3 P4 P5 P6 P7 P8;
    P1 P2 P3 P4 P5 P6 P7 P8 P9;
    P1 P2 P3 P4 P5 P6 P7 P8 P9 P10;
    P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11;
    P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12;
}
