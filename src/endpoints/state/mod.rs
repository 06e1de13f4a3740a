//! The pure machines: time and randomness are arguments.

pub(crate) mod health;
pub(crate) mod latency;
pub(crate) mod priority;
pub(crate) mod record;
pub(crate) mod rendezvous;
pub(crate) mod routes;
pub(crate) mod rules;
pub(crate) mod slow_start;
pub(crate) mod stats;
pub(crate) mod tier;
pub(crate) mod tried;

#[cfg(all(test, backstop_loom))]
mod loom_tests;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
