//! The five algorithms and the warm-up, as pure state machines: time is an argument, and there are no clocks and no
//! locks.
//!
//! All of them implement [`Limit`].

mod exact_rate;
mod fixed_window;
mod gcra;
mod leaky_bucket;
mod limit;
mod machine;
mod quota;
mod quota_text;
mod sliding_counter;
mod sliding_log;
mod striped_copy;
mod warm_up;

#[cfg(test)]
pub(crate) use self::exact_rate::ExactRate;
pub(crate) use self::exact_rate::REACH;
pub(crate) use self::gcra::Gcra;
pub use self::limit::Inherit;
pub(crate) use self::limit::{Availability, Limit, Unavailable, first_instant};
pub(crate) use self::machine::{Bucket, Limits, Machine};
pub use self::quota::{Algorithm, Quota};
pub(crate) use self::quota::{LARGEST, LARGEST_LOG, are_same_kinds, limits, queue_bound, stripe};
pub(crate) use self::striped_copy::StripedCopy;

#[cfg(test)]
mod tests;
