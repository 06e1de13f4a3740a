//! Subscriptions to the transitions of a breaker.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::event::Transition;
use crate::sync::lock;

/// A stream of a breaker's transitions, in order. Returned by
/// [`CircuitBreaker::subscribe`](super::CircuitBreaker::subscribe).
///
/// With the feature `stream` it is a `futures_core::Stream`.
///
/// It buffers the last 64 transitions for a slow reader. Older ones are dropped and counted
/// ([`missed`](Self::missed)). It ends when the last handle of the breaker is dropped.
///
/// If [`Standard::reconfigure`](crate::Standard::reconfigure) replaces the breaker, it continues with the transitions of
/// the new one. That begins in the state of the old one, except that a half-open circuit is open until the next call.
#[derive(Debug)]
pub struct Transitions {
    subscription: Arc<Subscription>,
}

impl Transitions {
    pub(super) fn new() -> Self {
        Self {
            subscription: Arc::default(),
        }
    }

    pub(super) const fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// Waits for the next transition. Returns `None` once the breaker has been dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no transition.
    pub async fn next(&mut self) -> Option<Transition> {
        poll_fn(|cx| self.poll_next_transition(cx)).await
    }

    /// Returns the next transition if it has happened already.
    pub fn try_next(&mut self) -> Option<Transition> {
        lock(&self.subscription.state).buffer.pop_front()
    }

    /// Returns how many transitions were dropped because they were not read in time.
    pub fn missed(&self) -> u64 {
        lock(&self.subscription.state).missed
    }

    /// Polls for the next transition. Ready with `None` once the breaker has been dropped.
    pub fn poll_next_transition(&mut self, cx: &mut Context<'_>) -> Poll<Option<Transition>> {
        if let Poll::Ready(ready) = self.subscription.poll(None) {
            return Poll::Ready(ready);
        }
        // Wakers are user code, so they are cloned and dropped outside the lock.
        let mut waker = Some(cx.waker().clone());
        self.subscription.poll(Some(&mut waker))
    }
}

impl Drop for Transitions {
    fn drop(&mut self) {
        // The breaker drops its reference under a lock, where the waker, which is user code, must not be
        // dropped.
        let waker = lock(&self.subscription.state).waker.take();
        drop(waker);
    }
}

#[cfg(feature = "stream")]
impl futures_core::Stream for Transitions {
    type Item = Transition;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Transition>> {
        self.get_mut().poll_next_transition(cx)
    }
}

/// The buffer between a breaker and one of its streams.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    state: Mutex<SubscriptionState>,
}

#[derive(Debug, Default)]
struct SubscriptionState {
    buffer: VecDeque<Transition>,
    missed: u64,
    /// Number of breakers that send transitions: two while one replaces the other.
    breakers: usize,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Subscription {
    /// Takes the next transition. If there is none, swaps `waker` with the one that is registered.
    fn poll(&self, waker: Option<&mut Option<Waker>>) -> Poll<Option<Transition>> {
        let mut state = lock(&self.state);
        if let Some(transition) = state.buffer.pop_front() {
            return Poll::Ready(Some(transition));
        }
        if state.is_closed {
            return Poll::Ready(None);
        }
        if let Some(waker) = waker {
            std::mem::swap(&mut state.waker, waker);
        }
        Poll::Pending
    }
}

/// All subscriptions of a breaker.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    all: Vec<Weak<Subscription>>,
}

impl Subscriptions {
    /// The most transitions that a subscription buffers.
    const CAPACITY: usize = 64;

    /// Adds a subscription, if it has not been added before.
    pub(super) fn add(&mut self, subscription: &Arc<Subscription>) {
        self.all.retain(|other| other.strong_count() > 0);
        let new = Arc::downgrade(subscription);
        if !self.all.iter().any(|other| other.ptr_eq(&new)) {
            lock(&subscription.state).breakers += 1;
            self.all.push(new);
        }
    }

    pub(super) fn active(&self) -> Vec<Arc<Subscription>> {
        self.all.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.iter().all(|other| other.strong_count() == 0)
    }

    /// Buffers a transition for each subscription. Adds their wakers to `wakers`, to be woken once no lock is held.
    pub(super) fn push(&mut self, transition: Transition, wakers: &mut Vec<Waker>) {
        self.all.retain(|subscription| {
            let Some(subscription) = subscription.upgrade() else {
                return false;
            };
            let mut state = lock(&subscription.state);
            if state.buffer.len() == Self::CAPACITY {
                state.buffer.pop_front();
                state.missed += 1;
            }
            state.buffer.push_back(transition);
            wakers.extend(state.waker.take());
            true
        });
    }

    /// Removes all subscriptions, and ends those to which no other breaker sends. Returns the wakers to wake.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        let open = self.all.drain(..).filter_map(|weak| weak.upgrade());
        open.filter_map(|subscription| {
            let mut state = lock(&subscription.state);
            state.breakers -= 1;
            state.is_closed = state.breakers == 0;
            state.waker.take()
        })
        .collect()
    }
}
