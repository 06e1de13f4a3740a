//! Waiting for a key's tokens.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::super::state::Refusal;
use super::KeyedRateLimiter;
use super::inner::NoRoom;
use crate::clock::Sleep;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;

pin_project! {
    /// Waits for a turn that has been given out, and gives it back when it is dropped before.
    pub(super) struct Turn<'a, K, Q>
    where
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        limiter: &'a KeyedRateLimiter<K>,
        key: &'a Q,
        // What it has taken and not yet used.
        cost: u64,
        #[pin]
        sleep: Sleep,
    }

    impl<K, Q> PinnedDrop for Turn<'_, K, Q>
    where
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        fn drop(this: Pin<&mut Self>) {
            if this.cost > 0 {
                this.limiter.add(this.key, this.cost);
            }
        }
    }
}

impl<K, Q> Future for Turn<'_, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.project();
        ready!(this.sleep.poll(task));
        *this.cost = 0;
        Poll::Ready(())
    }
}

impl<K: Hash + Eq> KeyedRateLimiter<K> {
    /// Takes `cost` of the key's tokens, now or for a turn that comes within `longest` and before
    /// `deadline`; `None` when it is now. `now` is the present on the clock.
    pub(super) fn book<'a, Q>(
        &'a self,
        key: &'a Q,
        cost: u64,
        longest: Duration,
        (now, deadline): (Instant, Instant),
        observer: Option<&dyn Observer>,
    ) -> Result<Option<Turn<'a, K, Q>>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let left =
            (deadline != Instant::FAR_FUTURE).then(|| deadline.saturating_duration_since(now));
        let latest = now + left.map_or(longest, |left| left.min(longest));
        let booked = inner.with(key, now, |tat, gcra| {
            // Beyond what the bucket holds there is nothing to wait for.
            let price = gcra.ready(0, Instant::FAR_FUTURE, cost, 0);
            let turn = match gcra.ready(*tat, now, cost, 0) {
                _ if price == Err(Refusal::Never) => return Err(Refusal::Never),
                Ok(()) => now,
                Err(Refusal::Until(at)) if at <= latest => at,
                Err(refusal) => return Err(refusal),
            };
            *tat = gcra.put(*tat, now, cost);
            Ok(turn)
        });
        let refusal = match booked {
            Ok(Ok(turn)) if turn <= now => return Ok(None),
            Ok(Ok(turn)) => {
                return Ok(Some(Turn {
                    limiter: self,
                    key,
                    cost,
                    sleep: inner.outside.clock.sleep_until(turn),
                }));
            }
            Ok(Err(refusal)) => refusal,
            Err(NoRoom) => return inner.overflow(now, cost, observer).map(|()| None),
        };
        let reason = match left {
            Some(left) if left <= longest => Reason::DeadlineTooClose,
            _ => Reason::RateLimited,
        };
        let rejected = inner.outside.rejected(now, refusal, reason);
        inner.outside.tell(&Event::rejected(&rejected), observer);
        Err(rejected)
    }
}
