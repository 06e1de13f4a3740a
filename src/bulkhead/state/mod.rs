//! Pure state machines: the semaphore's packed state, the wait queue, and the limit algorithms.

mod aimd;
mod average;
mod calibration;
mod correlated;
mod fixed;
mod gradient;
mod gradient2;
mod packed_state;
mod vegas;
mod wait_list;
mod windowed;

pub(super) use self::limit::{ConcurrencyLimit, Sample};
pub(super) use self::packed_state::{CACHED, MAX_PERMITS, PackedState, Taken, WAITING};
pub(super) use self::wait_list::{Settled, WaitList};

pub mod curve;
pub mod limit;
