//! A limit that never changes.

use super::limit::{ConcurrencyLimit, Sample};

/// A constant limit. Useful where code chooses the algorithm at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// Returns a constant limit. A limit of 0 counts as 1.
    pub const fn new(limit: u32) -> Self {
        Self(if limit == 0 { 1 } else { limit })
    }
}

impl ConcurrencyLimit for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn on_sample(&mut self, _: &Sample) {}
}
