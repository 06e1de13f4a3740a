//! tokio's cooperative budget of the current task. Without tokio, tasks have no budget.

use std::task::{Context, Poll, ready};

/// Polls an acquisition within the task's budget, so that a loop of acquisitions that never wait lets other tasks run.
#[inline(always)]
pub(crate) fn poll_within<T>(
    task: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    let budget = ready!(poll_proceed(task));
    let poll = poll(task);
    if poll.is_ready() {
        budget.made_progress();
    }
    poll
}

/// Consumes one unit of the task's budget. Wakes the task and returns `Pending` once the budget is used up.
/// The returned guard gives the unit back when dropped, unless `made_progress` was called.
#[cfg(all(feature = "tokio", not(backstop_loom)))]
#[inline]
fn poll_proceed(task: &mut Context<'_>) -> Poll<tokio::task::coop::RestoreOnPending> {
    tokio::task::coop::poll_proceed(task)
}

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
#[inline]
fn poll_proceed(_: &mut Context<'_>) -> Poll<NoBudget> {
    Poll::Ready(NoBudget)
}

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
#[derive(Debug)]
struct NoBudget;

#[cfg(not(all(feature = "tokio", not(backstop_loom))))]
impl NoBudget {
    #[inline]
    const fn made_progress(&self) {}
}
