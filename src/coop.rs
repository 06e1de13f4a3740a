//! The cooperative budget of the task that polls, if its runtime has one.

use std::task::{Context, Poll};

/// Consumes one unit of the task's budget. Returns `Pending`, with the task woken, if the budget is used up. The
/// returned guard restores the unit when dropped, unless progress was made.
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
