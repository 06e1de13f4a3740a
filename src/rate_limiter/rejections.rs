//! A counter of rejections that costs the rejected calls little.

use std::sync::OnceLock;

use crate::striped::Striped;

/// Counts rejections. Threads count apart from each other; the memory for that is allocated with the first
/// rejection.
#[derive(Debug, Default)]
pub(super) struct Rejections(OnceLock<Striped>);

impl Rejections {
    #[inline]
    pub(super) fn count(&self) {
        match self.0.get() {
            Some(counter) => counter.increment(),
            None => self.first(),
        }
    }

    #[cold]
    fn first(&self) {
        self.0.get_or_init(Striped::new).increment();
    }

    pub(super) fn total(&self) -> u64 {
        self.0.get().map_or(0, Striped::sum)
    }
}
