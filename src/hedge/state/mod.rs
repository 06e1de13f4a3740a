//! The pure part of hedges: latencies, and what follows the end of a copy.

pub(super) mod decision;
pub(super) mod delay;
mod histogram;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
