//! Timers that park the thread, and the loop behind `call_blocking`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::clock::system;
use crate::clock::timers::Timers;
use crate::clock::unpark::Unpark;
use crate::instant::Instant;

thread_local! {
    /// The sleeps of this thread's `block_on`.
    static TIMERS: RefCell<Timers> = const { RefCell::new(Timers::new()) };
    /// Number of nested `block_on` calls on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Returns whether this thread is inside `call_blocking`.
#[inline]
pub(in crate::clock) fn is_active() -> bool {
    DEPTH.get() > 0
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

/// Runs user code that may start a runtime, such as an operation, a hook, or an observer. Inside it, this thread's
/// sleeps are those of the runtime that polls them.
#[inline(always)]
pub(crate) fn outside<R>(code: impl FnOnce() -> R) -> R {
    let _depth = is_active().then(|| Depth::at(0));
    code()
}

/// Restores the outer depth, even if the code inside panics.
struct Depth {
    outer: u32,
}

impl Depth {
    fn enter() -> Self {
        Self::at(DEPTH.get() + 1)
    }

    fn at(depth: u32) -> Self {
        Self {
            outer: DEPTH.replace(depth),
        }
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(self.outer);
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
