//! One key's limit before an operation.

use std::borrow::Borrow;
use std::hash::Hash;

use super::KeyedRateLimiter;
use crate::clock::ClockHandle;
use crate::observe::Listener;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

/// One key's limit as a policy. Made by [`KeyedRateLimiter::of`].
#[derive(Debug)]
pub struct Limited<'a, K, Q: ?Sized> {
    limiter: &'a KeyedRateLimiter<K>,
    key: &'a Q,
}

impl<'a, K, Q: ?Sized> Limited<'a, K, Q> {
    pub(super) const fn new(limiter: &'a KeyedRateLimiter<K>, key: &'a Q) -> Self {
        Self { limiter, key }
    }
}

impl<T, E, K, Q> Policy<T, E> for Limited<'_, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    async fn run<Op: Operation<T, E>>(&self, op: Op, mut cx: Context) -> Outcome<T, E> {
        let inner = &*self.limiter.inner;
        let cost = u64::from(cx.cost());
        let reading = cx.now(&inner.clock);
        let taken = if inner.max_wait.is_zero() {
            let now = inner.steady(reading);
            self.limiter
                .try_acquire_at(self.key, cost, now, op.listener().observer())
        } else {
            let deadline = cx.deadline(&inner.clock);
            let taken = self
                .limiter
                .wait(
                    self.key,
                    cost,
                    inner.max_wait,
                    reading,
                    deadline,
                    op.listener().observer(),
                )
                .await;
            cx.refresh(&inner.clock);
            taken
        };
        match taken {
            Ok(()) => op.attempt(cx).await,
            Err(rejected) => Outcome::rejected(rejected),
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.limiter.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}
