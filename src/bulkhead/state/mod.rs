//! The pure machines: the semaphore's word, the wait queue, and the algorithms that set the limit.

mod aimd;
mod average;
mod correlated;
mod fixed;
mod gradient;
mod gradient2;
mod probe;
mod vegas;
mod wait_list;
mod windowed;
mod word;

pub(super) use self::limit::{ConcurrencyLimit, Sample};
pub(super) use self::wait_list::{Settled, WaitList};
pub(super) use self::word::{CACHED, MAX_PERMITS, Taken, WAITING, Word};

pub mod limit;
