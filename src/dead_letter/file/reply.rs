//! Replies from the writer thread to tasks.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use crate::sync::lock;

type Answer<T> = Result<T, DeadLetterError>;

#[derive(Debug)]
struct Slot<T> {
    answer: Option<Answer<T>>,
    waker: Option<Waker>,
}

/// The sending half of a reply. Dropping it without an answer reports that the queue is closed.
#[derive(Debug)]
pub(super) struct Answerer<T>(Option<Arc<Mutex<Slot<T>>>>);

/// The receiving half: a future of the answer.
#[derive(Debug)]
pub(super) struct Reply<T>(Arc<Mutex<Slot<T>>>);

pub(super) fn reply<T>() -> (Answerer<T>, Reply<T>) {
    let slot = Arc::new(Mutex::new(Slot {
        answer: None,
        waker: None,
    }));
    (Answerer(Some(slot.clone())), Reply(slot))
}

impl<T> Answerer<T> {
    pub(super) fn answer(mut self, answer: Answer<T>) {
        self.give(answer);
    }

    fn give(&mut self, answer: Answer<T>) {
        let Some(slot) = self.0.take() else {
            return;
        };
        let waker = {
            let mut slot = lock(&slot);
            slot.answer = Some(answer);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            // A waker that panics must not end the writer thread.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

impl<T> Drop for Answerer<T> {
    fn drop(&mut self) {
        self.give(Err(DeadLetterErrorKind::Closed.into()));
    }
}

impl<T> Future for Reply<T> {
    type Output = Answer<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<T>> {
        // Cloned and dropped outside the lock: both are the executor's code.
        let waker = cx.waker().clone();
        let mut slot = lock(&self.0);
        let old = match slot.answer.take() {
            Some(answer) => {
                drop(slot);
                return Poll::Ready(answer);
            }
            None => slot.waker.replace(waker),
        };
        drop(slot);
        drop(old);
        Poll::Pending
    }
}
