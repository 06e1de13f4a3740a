//! Errors of stores.

use std::fmt;
use std::sync::Arc;

/// A failed request to a store, or a lost answer.
///
/// Shared limits treat all errors alike. Their snapshots show the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    text: Arc<str>,
}

impl StoreError {
    /// Returns an error with this text.
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
