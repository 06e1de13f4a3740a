//! Following a breaker's transitions.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::event::Transition;
use crate::sync::lock;

/// A stream of a breaker's transitions, in order. Made by
/// [`CircuitBreaker::subscribe`](super::CircuitBreaker::subscribe).
///
/// With the feature `stream` it is a `futures_core::Stream`.
///
/// It holds the last 64 transitions for a reader that is late; older ones are dropped and counted
/// ([`missed`](Self::missed)). It ends when the last handle of the breaker is dropped.
#[derive(Debug)]
pub struct Transitions {
    watcher: Arc<Watcher>,
}

impl Transitions {
    pub(super) fn new() -> Self {
        Self {
            watcher: Arc::default(),
        }
    }

    pub(super) const fn watcher(&self) -> &Arc<Watcher> {
        &self.watcher
    }

    /// The next transition; `None` once the breaker is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no transition.
    pub async fn next(&mut self) -> Option<Transition> {
        poll_fn(|cx| self.poll_next_transition(cx)).await
    }

    /// The next transition, if there is one already.
    pub fn try_next(&mut self) -> Option<Transition> {
        lock(&self.watcher.state).queue.pop_front()
    }

    /// How many transitions were dropped because nobody read them in time.
    pub fn missed(&self) -> u64 {
        lock(&self.watcher.state).missed
    }

    /// Polls for the next transition. Ready with `None` once the breaker is gone.
    pub fn poll_next_transition(&mut self, cx: &mut Context<'_>) -> Poll<Option<Transition>> {
        if let Poll::Ready(ready) = self.watcher.poll(None) {
            return Poll::Ready(ready);
        }
        // Wakers are user code: they are cloned and dropped outside the lock.
        let mut waker = Some(cx.waker().clone());
        self.watcher.poll(Some(&mut waker))
    }
}

impl Drop for Transitions {
    fn drop(&mut self) {
        // Here and not where the breaker drops its end: that is under a lock, and a waker is the
        // user's code.
        let waker = lock(&self.watcher.state).waker.take();
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

/// The breaker's end of a subscription.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    state: Mutex<Waiting>,
}

impl Watcher {
    /// Takes the next transition. If there is none, exchanges the waker for this one.
    fn poll(&self, waker: Option<&mut Option<Waker>>) -> Poll<Option<Transition>> {
        let mut state = lock(&self.state);
        if let Some(transition) = state.queue.pop_front() {
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

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Transition>,
    missed: u64,
    is_closed: bool,
    waker: Option<Waker>,
}

/// The subscriptions of a breaker.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Weak<Watcher>>,
}

impl Watchers {
    /// How many transitions a subscription holds.
    const HELD: usize = 64;

    pub(super) fn add(&mut self, watcher: &Arc<Watcher>) {
        self.all.retain(|watcher| watcher.strong_count() > 0);
        self.all.push(Arc::downgrade(watcher));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.iter().all(|watcher| watcher.strong_count() == 0)
    }

    /// Queues a transition. Those to wake, once no lock is held, are added to `wakers`.
    pub(super) fn push(&mut self, transition: Transition, wakers: &mut Vec<Waker>) {
        self.all.retain(|watcher| {
            let Some(watcher) = watcher.upgrade() else {
                return false;
            };
            let mut state = lock(&watcher.state);
            if state.queue.len() == Self::HELD {
                state.queue.pop_front();
                state.missed += 1;
            }
            state.queue.push_back(transition);
            wakers.extend(state.waker.take());
            true
        });
    }

    /// The breaker is gone. Returns the wakers to wake.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        let watchers = self.all.drain(..).filter_map(|watcher| watcher.upgrade());
        watchers
            .filter_map(|watcher| {
                let mut state = lock(&watcher.state);
                state.is_closed = true;
                state.waker.take()
            })
            .collect()
    }
}
