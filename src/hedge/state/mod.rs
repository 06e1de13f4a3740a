//! The pure part of hedges: latencies, and what follows the end of a copy.

pub(super) mod decision;
pub(super) mod delay;
mod histogram;
