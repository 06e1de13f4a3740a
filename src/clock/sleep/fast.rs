//! Timers that borrow a tokio timer from the pool of their thread.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::pool::Armed;
use crate::blocking;
use crate::clock::counter;
use crate::instant::Instant;

/// A sleep on the fast clock.
#[derive(Debug)]
pub(in crate::clock) struct Timer {
    deadline: Instant,
    armed: Option<Armed>,
}

impl Timer {
    /// Returns a timer; `None` if it would never fire, or where threads sleep instead.
    #[inline]
    pub(in crate::clock) fn new(deadline: Instant) -> Option<Self> {
        (deadline != Instant::FAR_FUTURE && !blocking::is_active()).then_some(Self {
            deadline,
            armed: None,
        })
    }
}

impl Future for Timer {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, armed } = &mut *self;
        let (armed, mut fired) = match armed {
            Some(armed) => {
                let fired = armed.has_fired(cx.waker());
                (armed, fired)
            }
            None => {
                let armed = armed.insert(Armed::take(*deadline));
                let fired = armed.wake_when_fired(cx.waker().clone());
                (armed, fired)
            }
        };
        while fired {
            // The tokio timer may have been armed for the earlier deadline of a call that has ended.
            if counter::now() >= *deadline {
                return Poll::Ready(());
            }
            armed.move_to(*deadline);
            fired = armed.has_fired(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if let Some(armed) = self.armed.take() {
            armed.park();
        }
    }
}
