//! The cooperative budget of the task that polls, if its runtime has one.

use std::task::{Context, Poll};

/// Takes one unit of the task's budget. `Pending`, with the task woken, once it is used up. What is
/// returned gives the unit back when dropped, unless progress was made.
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
