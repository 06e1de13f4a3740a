//! A limit that stays.

use super::limit::{ConcurrencyLimit, Sample};

/// The limit it was made with, whatever happens; 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// This limit.
    pub fn new(limit: u32) -> Self {
        Self(limit.max(1))
    }
}

impl ConcurrencyLimit for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn on_sample(&mut self, _: &Sample) {}
}
