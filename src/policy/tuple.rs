//! Tuples of policies: the first is the outermost.

use std::time::Duration;

use super::calls::{AtMostOnce, Policy};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::operation::{Operation, Run, forward_attempts};
use crate::clock::ClockHandle;
use crate::error::Error;
use crate::keyed::Evictable;

/// An operation under a policy, as an operation for the policy outside it.
#[derive(Clone, Copy, Debug)]
pub struct Under<P, Op> {
    policy: P,
    op: Op,
}

impl<P, Op> Under<P, Op> {
    #[inline(always)]
    pub(super) const fn new(policy: P, op: Op) -> Self {
        Self { policy, op }
    }
}

impl<P: Run<Op>, Op: Operation> Operation for Under<P, Op> {
    type Value = Op::Value;
    type Error = Op::Error;
    type Attempt = P::Future;
    type Listener = Op::Listener;

    #[inline(always)]
    fn attempt(self, cx: Context) -> P::Future {
        self.policy.run(self.op, cx)
    }

    #[inline(always)]
    fn listener(self) -> Op::Listener {
        self.op.listener()
    }

    forward_attempts!();

    fn discard(self, error: Error<Op::Error>) {
        self.op.discard(error);
    }
}

/// `Inner!('a; B C)` is the type of `Op` inside `C` inside `B`.
macro_rules! Inner {
    ($a:lifetime;) => { Op };
    ($a:lifetime; $policy:ident $($inner:ident)*) => {
        Under<&$a $policy, Inner!($a; $($inner)*)>
    };
}

/// `under!(op; b c)` is the operation of `op` inside `c` inside `b`.
macro_rules! under {
    ($op:expr;) => { $op };
    ($op:expr; $policy:ident $($inner:ident)*) => {
        Under::new($policy, under!($op; $($inner)*))
    };
}

/// Implements `Run` for `(A, B, C)`, collecting its bounds from the outside in.
macro_rules! run {
    (@ [$($all:ident)*] [$($bounds:tt)*] $outer:ident $($inner:ident)*) => {
        run!(@ [$($all)*] [$($bounds)* &'a $outer: Run<Inner!('a; $($inner)*)>,] $($inner)*);
    };
    (@ [$outer:ident $($inner:ident)*] [$($bounds:tt)*]) => {
        #[allow(non_snake_case)]
        impl<'a, Op: Operation, $outer, $($inner,)*> Run<Op> for &'a ($outer, $($inner,)*)
        where
            $($bounds)*
        {
            type Future = <&'a $outer as Run<Inner!('a; $($inner)*)>>::Future;

            #[inline(always)]
            fn run(self, op: Op, cx: Context) -> Self::Future {
                let ($outer, $($inner,)*) = self;
                $outer.run(under!(op; $($inner)*), cx)
            }
        }
    };
}

macro_rules! tuples {
    ($($outer:ident $($inner:ident)*;)*) => {$(
        // Unconditional, so that `Run` names an element that is not a policy, where `call` is used.
        impl<$outer, $($inner,)*> Policy for ($outer, $($inner,)*) {}

        impl<$outer: AtMostOnce, $($inner: AtMostOnce,)*> AtMostOnce for ($outer, $($inner,)*) {}

        run!(@ [$outer $($inner)*] [] $outer $($inner)*);

        #[allow(non_snake_case)]
        impl<$outer: Describe, $($inner: Describe,)*> Describe for ($outer, $($inner,)*) {
            fn clock(&self) -> Option<ClockHandle> {
                let ($outer, $($inner,)*) = self;
                None.or_else(|| $outer.clock())$(.or_else(|| $inner.clock()))*
            }

            fn describe(&self, layers: &mut Vec<LayerKind>) {
                let ($outer, $($inner,)*) = self;
                $outer.describe(layers);
                $($inner.describe(layers);)*
            }

            fn clocks(&self, clocks: &mut Vec<Option<ClockHandle>>) {
                let ($outer, $($inner,)*) = self;
                $outer.clocks(clocks);
                $($inner.clocks(clocks);)*
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

            fn share_among_keys(&self) {
                let ($outer, $($inner,)*) = self;
                $outer.share_among_keys();
                $($inner.share_among_keys();)*
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

/// The empty tuple runs the operation unchanged: a [`Pipeline`](super::Pipeline) of it carries a name, an observer,
/// and options for stacks created for each call.
impl Policy for () {}

impl AtMostOnce for () {}

impl<Op: Operation> Run<Op> for &() {
    type Future = Op::Attempt;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Op::Attempt {
        op.attempt(cx)
    }
}

impl Describe for () {
    fn describe(&self, _: &mut Vec<LayerKind>) {}

    fn clocks(&self, _: &mut Vec<Option<ClockHandle>>) {}
}
