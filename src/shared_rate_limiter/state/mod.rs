//! The pure state machines of the shared limiter: when to ask the store, for how many tokens, and what to do during
//! an outage.

pub(super) mod demand;
pub(super) mod lease;
mod level;
pub(super) mod link;
pub(super) mod local;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
pub(super) mod lots;
mod pause;
pub(super) mod pocket;
pub(super) mod request;
pub(super) mod rules;
pub(super) mod scarcity;
pub(super) mod share;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
