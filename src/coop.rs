//! tokio's cooperative budget of the current task. Without tokio, tasks have no budget.

use std::task::{Context, Poll};

/// Consumes one unit of the task's budget. Wakes the task and returns `Pending` once the budget is used up.
/// The returned guard gives the unit back when dropped, unless `made_progress` was called.
#[cfg(all(feature = "tokio", not(backstop_loom)))]
#[inline]
pub(crate) fn poll_proceed(task: &mut Context<'_>) -> Poll<tokio::task::coop::RestoreOnPending> {
    tokio::task::coop::poll_proceed(task)
}

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
#[inline]
pub(crate) fn poll_proceed(_: &mut Context<'_>) -> Poll<NoBudget> {
    Poll::Ready(NoBudget)
}

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
#[derive(Debug)]
pub(crate) struct NoBudget;

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
impl NoBudget {
    #[inline]
    pub(crate) const fn made_progress(&self) {}
}
