//! The pure machines: the word of permits, and the algorithms that set the limit.

mod aimd;
mod average;
mod correlated;
mod fixed;
mod gradient;
mod gradient2;
mod line;
mod probe;
mod vegas;
mod windowed;
pub(super) mod word;

pub(super) use self::limit::{ConcurrencyLimit, Sample};
pub(super) use self::line::{Lines, Settled};
pub(super) use self::word::{MAX_PERMITS, Taken, Word};

pub mod limit;
