//! Manually advanced time, and its timers.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::clock::timers::Timers;
use crate::event::Panics;
use crate::instant::Instant;
use crate::sync::lock;

/// The time of a `ManualClock` and its pending sleeps.
///
/// The time changes only under the lock of the timers. So a sleep that registers during a change either sees the new
/// time or is seen by the thread that changes it.
#[derive(Debug, Default)]
pub(in crate::clock) struct ManualTime {
    now: AtomicU64,
    timers: Mutex<Timers>,
}

impl ManualTime {
    #[inline]
    pub(in crate::clock) fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::Acquire))
    }

    pub(in crate::clock) fn sleepers(&self) -> usize {
        lock(&self.timers).len()
    }

    /// Advances the time to `target`, and stops at the deadline of each earlier sleep to wake it.
    pub(in crate::clock) fn advance(&self, target: Instant) {
        // Wakers are user code. A panic in one does not keep the others asleep.
        let mut panics = Panics::default();
        while self.step(target, &mut panics) {}
        panics.resume();
    }

    /// Advances the time to the next deadline and wakes all sleeps that wait for it. Returns `false` if there is
    /// none.
    pub(in crate::clock) fn jump(&self) -> bool {
        let next = lock(&self.timers).next_deadline();
        if let Some(deadline) = next {
            self.advance(deadline);
        }
        next.is_some()
    }

    /// Wakes the first sleep whose deadline is `target` or earlier, at its deadline and outside the
    /// lock. If there is none, moves the time to `target` and returns `false`.
    fn step(&self, target: Instant, panics: &mut Panics) -> bool {
        let mut timers = lock(&self.timers);
        let due = timers.pop_due(target);
        let at = due.as_ref().map_or(target, |(deadline, _)| *deadline);
        self.now.fetch_max(at.as_nanos(), Ordering::AcqRel);
        drop(timers);
        match due {
            Some((_, waker)) => {
                panics.run(|| waker.wake());
                true
            }
            None => false,
        }
    }
}

#[derive(Debug)]
pub(in crate::clock) struct Timer {
    time: Arc<ManualTime>,
    deadline: Instant,
    key: Option<u64>,
}

impl Timer {
    pub(in crate::clock) const fn new(time: Arc<ManualTime>, deadline: Instant) -> Self {
        Self {
            time,
            deadline,
            key: None,
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            time,
            deadline,
            key,
        } = &mut *self;
        // Cloned before the lock and dropped after it, because a waker may be user code.
        let waker = cx.waker().clone();
        let mut timers = lock(&time.timers);
        if time.now() >= *deadline {
            drop(timers);
            return Poll::Ready(());
        }
        let replaced = timers.register(*deadline, key, waker);
        drop(timers);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = lock(&self.time.timers).cancel(self.deadline, key);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::reentrant;
    use std::sync::Barrier;
    use std::task::Waker;
    use std::thread;

    #[test]
    fn a_sleep_that_registers_during_an_advance_is_woken() {
        const SLEEPS: u64 = 20_000;

        let time = Arc::new(ManualTime::default());
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let mut cx = Context::from_waker(Waker::noop());
                start.wait();
                for _ in 0..SLEEPS {
                    let next = time.now().after(1);
                    let mut timer = Box::pin(Timer::new(time.clone(), next));
                    // Kept until its deadline, because a dropped sleep would not be noticed as missing.
                    while timer.as_mut().poll(&mut cx).is_pending() {}
                }
            });
            start.wait();
            let mut missed = 0;
            while !sleeper.is_finished() {
                time.advance(time.now().after(1));
                let next = lock(&time.timers).next_deadline();
                missed += u64::from(next.is_some_and(|next| next <= time.now()));
            }
            assert_eq!(missed, 0, "of {SLEEPS}");
        });
    }

    #[test]
    fn wakers_may_use_the_timers_when_they_are_dropped() {
        let time = Arc::new(ManualTime::default());
        let timer = Timer::new(time.clone(), Instant::from_nanos(1));
        reentrant::drop_wakers(timer, move || assert!(time.timers.try_lock().is_ok()));
    }
}
