//! Why a store did not answer.

use std::fmt;
use std::sync::Arc;

/// A store did not do what it was asked to, or its answer was lost.
///
/// Shared limits treat all errors alike. The text is for people: it is in the snapshots of the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    text: Arc<str>,
}

impl StoreError {
    /// Makes an error with this text.
    pub fn new(text: impl fmt::Display) -> Self {
        Self {
            text: text.to_string().into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl std::error::Error for StoreError {}
