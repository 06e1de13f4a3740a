//! A clock that does not advance until it is moved.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::sleep::manual::{ManualTime, Timer};
use super::unpark::Unpark;
use super::{Clock, Sleep};
use crate::instant::Instant;

/// A clock for tests: it stands still until [`advance`](Self::advance) moves it, or until
/// [`block_on`](Self::block_on) finds that all tasks wait for it.
///
/// Clones share one time, which starts at zero and never goes back.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.now().as_nanos(), 5_000_000_000);
///
/// // An hour passes at once: nothing else is left to wait for.
/// clock.block_on(clock.sleep(Duration::from_secs(3600)));
/// assert_eq!(clock.now().as_nanos(), 3_605_000_000_000);
/// ```
///
/// A test of an outage of an hour:
///
/// ```
/// use std::time::Duration;
/// use backstop::{Backoff, Clock, Jitter, ManualClock, Policy, Retry};
///
/// let clock = ManualClock::new();
/// let retry = Retry::builder()
///     .max_attempts(13)
///     .backoff(Backoff::fixed(Duration::from_secs(300)).jitter(Jitter::None))
///     .clock(clock.clone())
///     .build()?;
///
/// let result = clock.block_on(retry.call(|| async {
///     match clock.now().as_nanos() >= 3_600_000_000_000 {
///         true => Ok("back"),
///         false => Err("down"),
///     }
/// }));
/// assert_eq!(result, Ok("back"));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct ManualClock {
    time: Arc<ManualTime>,
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now", &self.now())
            .field("sleepers", &self.sleepers())
            .finish()
    }
}

impl ManualClock {
    /// Returns a clock that reads zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances the time by `duration` and wakes the sleepers whose deadlines have passed, in the order of their
    /// deadlines. While a sleeper is woken, the clock reads that sleeper's deadline.
    ///
    /// Time saturates at [`Instant::FAR_FUTURE`].
    pub fn advance(&self, duration: Duration) {
        self.time.advance(self.now() + duration);
    }

    /// Returns a sleep of `duration` on this clock.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Returns the number of pending sleeps on this clock: zero once all futures have ended or been dropped.
    pub fn sleepers(&self) -> usize {
        self.time.sleepers()
    }

    /// Runs a future to completion on this thread, and jumps to the next deadline whenever nothing is ready.
    ///
    /// The future may have any number of concurrent parts (`join!`, `FuturesUnordered`). They run in a fixed order:
    /// parts that wait for the same instant are woken in the order in which they began to wait.
    ///
    /// # Panics
    ///
    /// If the future can never be woken, because its waker has been dropped everywhere else.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let signal = Unpark::current();
        let waker = Waker::from(signal.clone());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            while !signal.take() {
                if self.time.jump() {
                    continue;
                }
                if Arc::strong_count(&signal) > 2 {
                    thread::park();
                    continue;
                }
                // Another thread may have woken the future and then dropped its waker. The fence orders the check of
                // the wake-up after that drop.
                fence(Ordering::Acquire);
                assert!(
                    signal.take(),
                    "deadlock: the future waits for neither this clock nor anything that could wake it"
                );
                break;
            }
        }
    }

    /// Returns the address of the time, which identifies the clock.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.time) as usize
    }
}

impl Clock for ManualClock {
    #[inline]
    fn now(&self) -> Instant {
        self.time.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        match deadline {
            Instant::FAR_FUTURE => Sleep::never(),
            deadline => Sleep::manual(Timer::new(self.time.clone(), deadline)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{join, join_all};
    use std::cell::RefCell;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn concurrent_parts_run_in_the_order_of_their_deadlines() {
        let clock = ManualClock::new();
        let order = RefCell::new(Vec::new());
        clock.block_on(join_all([3_u32, 1, 2, 1].iter().enumerate().map(
            |(part, seconds)| {
                let (clock, order) = (&clock, &order);
                async move {
                    clock.sleep(*seconds * SECOND).await;
                    order.borrow_mut().push((part, clock.now().as_nanos()));
                }
            },
        )));
        let at = |seconds: u64| seconds * 1_000_000_000;
        assert_eq!(
            *order.borrow(),
            [(1, at(1)), (3, at(1)), (2, at(2)), (0, at(3))]
        );
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        let clock = ManualClock::new();
        let mut sleep = Box::pin(clock.sleep(SECOND));
        assert!(
            sleep
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(clock.sleepers(), 1);
        drop(sleep);
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn time_saturates_and_never_is_never() {
        let clock = ManualClock::new();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Instant::FAR_FUTURE);
        let mut sleep = Box::pin(clock.sleep_until(Instant::FAR_FUTURE));
        let poll = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
    }

    #[test]
    fn another_thread_can_advance_it() {
        let clock = ManualClock::new();
        let (send, receive) = futures::channel::oneshot::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                clock.advance(SECOND);
                send.send(()).unwrap();
            });
            let (_, received) = clock.block_on(join(clock.sleep(SECOND), receive));
            received.unwrap();
        });
        assert!(clock.now() >= Instant::from_nanos(1_000_000_000));
    }

    #[test]
    fn a_wake_up_from_another_thread_is_not_a_deadlock() {
        let clock = ManualClock::new();
        let (hand_over, handed_over) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(send) = handed_over.recv() {
                    let _: Result<(), ()> = futures::channel::oneshot::Sender::send(send, ());
                }
            });
            for _ in 0..20_000 {
                let (send, receive) = futures::channel::oneshot::channel();
                hand_over.send(send).unwrap();
                clock.block_on(receive).unwrap();
            }
            drop(hand_over);
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_future_that_nothing_can_wake_is_reported() {
        ManualClock::new().block_on(std::future::pending::<()>());
    }
}
