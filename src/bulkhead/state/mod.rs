//! The pure machines: the word of permits, and the algorithms that set the limit.

mod aimd;
mod average;
mod correlated;
mod fixed;
mod gradient;
mod gradient2;
mod line;
mod permits;
mod probe;
mod spares;
mod vegas;
mod windowed;

pub(super) use self::limit::{ConcurrencyLimit, Sample};
pub(super) use self::line::{Lines, Settled};
pub(super) use self::permits::{Added, MAX_PERMITS, Permits, Taken, Word};

pub mod limit;
