//! The way back of a store's answer.

use std::fmt;

use super::error::StoreError;
use crate::event::Panics;

type Then<T> = dyn FnOnce(Result<T, StoreError>) + Send + Sync;

/// Takes the answer of a store to one request. Dropped without an answer, it reports an error.
///
/// It can be sent from any thread, at any time; an answer that comes after the limit has given up waiting
/// is still used as far as it can be.
pub struct Reply<T> {
    then: Option<Box<Then<T>>>,
}

impl<T> Reply<T> {
    /// Makes a reply that calls `then` with the answer.
    pub fn new(then: impl FnOnce(Result<T, StoreError>) + Send + Sync + 'static) -> Self {
        Self {
            then: Some(Box::new(then)),
        }
    }

    /// Sends the answer. Runs the limit's code, which is short and does not block, on the calling thread.
    pub fn send(mut self, answer: Result<T, StoreError>) {
        if let Some(then) = self.then.take() {
            then(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(then) = self.then.take() {
            // Reads a clock, wakes, and reports: all of it user code.
            let mut panics = Panics::default();
            panics.run(|| then(Err(StoreError::new("the store dropped the request"))));
            panics.resume();
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}
