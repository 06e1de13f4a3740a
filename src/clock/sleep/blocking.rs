//! Timers that park the thread, and the loop behind `call_blocking`.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::blocking::{Depth, is_active};
use crate::clock::system;
use crate::clock::timers::Timers;
use crate::clock::unpark::Unpark;
use crate::instant::Instant;

thread_local! {
    /// The sleeps of this thread's `block_on`.
    static TIMERS: RefCell<Timers> = const { RefCell::new(Timers::new()) };
}

#[derive(Debug)]
pub(super) struct Timer {
    deadline: Instant,
    key: Option<u64>,
}

impl Timer {
    pub(super) const fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            key: None,
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, key } = &mut *self;
        if system::now() >= *deadline {
            return Poll::Ready(());
        }
        if is_active() {
            // Cloned before the borrow and dropped after it, because a waker may be user code.
            let waker = cx.waker().clone();
            let replaced = TIMERS.with_borrow_mut(|timers| timers.register(*deadline, key, waker));
            drop(replaced);
            return Poll::Pending;
        }
        while system::now() < *deadline {
            park_until(*deadline);
        }
        Poll::Ready(())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // If the thread's storage has been destroyed, so has the entry.
            let waker = TIMERS.try_with(|timers| timers.borrow_mut().cancel(self.deadline, key));
            drop(waker);
        }
    }
}

fn park_until(deadline: Instant) {
    thread::park_timeout(deadline.saturating_duration_since(system::now()));
}

/// Runs a future on this thread, which is parked while nothing is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let _depth = Depth::enter();
    let mut future = pin!(future);
    let signal = Unpark::current();
    let waker = Waker::from(signal.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !signal.take() {
            let due = TIMERS.with_borrow_mut(|timers| timers.pop_due(system::now()));
            match due {
                Some((_, waker)) => waker.wake(),
                None => match TIMERS.with_borrow(Timers::next_deadline) {
                    Some(deadline) => park_until(deadline),
                    None => thread::park(),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::reentrant;
    use std::time::Duration;

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        block_on(async {
            let hour = system::now() + Duration::from_secs(3600);
            let mut timer = Box::pin(Timer::new(hour));
            let poll = timer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll.is_pending());
            assert_eq!(TIMERS.with_borrow(Timers::len), 1);
            drop(timer);
            assert_eq!(TIMERS.with_borrow(Timers::len), 0);
        });
    }

    #[test]
    fn wakers_may_use_the_timers_when_they_are_dropped() {
        block_on(async {
            let hour = system::now() + Duration::from_secs(3600);
            reentrant::drop_wakers(Timer::new(hour), || {
                TIMERS.with(|timers| assert!(timers.try_borrow_mut().is_ok()));
            });
        });
    }
}
