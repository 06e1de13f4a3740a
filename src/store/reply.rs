//! Replies of stores.

use std::fmt;

use super::error::StoreError;
use crate::event::Panics;

type Then<T> = dyn FnOnce(Result<T, StoreError>) + Send + Sync;

/// The reply to one request to a store. Dropping it without an answer reports an error.
///
/// It can be sent from any thread, at any time. The limit uses late answers as far as possible.
pub struct Reply<T> {
    then: Option<Box<Then<T>>>,
}

impl<T> Reply<T> {
    /// Returns a reply that calls `then` with the answer.
    pub fn new(then: impl FnOnce(Result<T, StoreError>) + Send + Sync + 'static) -> Self {
        Self {
            then: Some(Box::new(then)),
        }
    }

    /// Sends the answer. Runs code of the limit on the calling thread, which is short and does not block.
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
