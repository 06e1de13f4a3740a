//! A limit that never changes.

use super::limit::{ConcurrencyLimit, Sample};

/// A constant limit. Useful where code chooses the algorithm at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// Returns a constant limit.
    ///
    /// # Panics
    ///
    /// If `limit` is 0.
    #[track_caller]
    pub fn new(limit: u32) -> Self {
        assert!(limit > 0, "a concurrency limit must be at least 1");
        Self(limit)
    }
}

impl ConcurrencyLimit for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn on_sample(&mut self, _: &Sample) {}
}
