//! The system's clock, and the loop behind `call_blocking`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant as StdInstant;

use super::sleep::OtherSleep;
use super::timers::Timers;
use super::{Clock, ClockHandle, Sleep, real};
use crate::event::{Event, Observer};
use crate::instant::Instant;

/// The system's monotonic clock, whose sleeps park the thread.
///
/// For programs without a runtime: build policies with it and use them through
/// [`call_blocking`](crate::Policy::call_blocking). Polled anywhere else, a sleep parks the thread
/// it is polled on until its time has come, so keep it out of async executors.
///
/// # Example
///
/// ```
/// use backstop::{BlockingClock, Policy, Retry};
///
/// let retry = Retry::builder().clock(BlockingClock).build()?;
/// let text = retry.call_blocking(|| std::fs::read_to_string("Cargo.toml"));
/// assert!(text.is_ok());
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockingClock;

impl Clock for BlockingClock {
    #[inline]
    fn now(&self) -> Instant {
        real::from_std(StdInstant::now())
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        sleep_until(deadline)
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle::BLOCKING
    }
}

/// A sleep until `deadline` on a clock that reads `now`, whether that one goes on or stands still.
#[cfg(feature = "tokio")]
pub(super) fn sleep_from(now: Instant, deadline: Instant) -> Sleep {
    match deadline {
        Instant::FAR_FUTURE => Sleep::never(),
        deadline => sleep_until(BlockingClock.now() + deadline.saturating_duration_since(now)),
    }
}

pub(super) fn sleep_until(deadline: Instant) -> Sleep {
    Sleep::other(match deadline {
        Instant::FAR_FUTURE => OtherSleep::Never,
        deadline => OtherSleep::Blocking {
            timer: Timer {
                deadline,
                key: None,
            },
        },
    })
}

thread_local! {
    /// The sleeps of this thread's `block_on`.
    static TIMERS: RefCell<Timers> = const { RefCell::new(Timers::new()) };
    /// How many `block_on` are nested on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is inside `call_blocking`.
#[inline]
pub(super) fn is_active() -> bool {
    DEPTH.get() > 0
}

#[derive(Debug)]
pub(super) struct Timer {
    deadline: Instant,
    key: Option<u64>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, key } = &mut *self;
        if BlockingClock.now() >= *deadline {
            return Poll::Ready(());
        }
        if is_active() {
            TIMERS.with_borrow_mut(|timers| timers.register(*deadline, key, cx.waker()));
            return Poll::Pending;
        }
        while BlockingClock.now() < *deadline {
            park_until(*deadline);
        }
        Poll::Ready(())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // The thread's storage may be gone already; then so is the entry.
            let _ = TIMERS.try_with(|timers| timers.borrow_mut().cancel(self.deadline, key));
        }
    }
}

fn park_until(deadline: Instant) {
    thread::park_timeout(deadline.saturating_duration_since(BlockingClock.now()));
}

/// Wakes the thread that polls.
#[derive(Debug)]
pub(super) struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Unpark {
    pub(super) fn current() -> Arc<Self> {
        Arc::new(Self {
            thread: thread::current(),
            woken: AtomicBool::new(false),
        })
    }

    /// Whether a wake-up came since the last time this was asked.
    pub(super) fn take(&self) -> bool {
        self.woken.swap(false, Ordering::Acquire)
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future on this thread and parks it while there is nothing to do.
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
            let due = TIMERS.with_borrow_mut(|timers| timers.pop_due(BlockingClock.now()));
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

/// Runs code of the user that may start a runtime, such as an operation, a hook or an observer: inside
/// it this thread's sleeps are those of the runtime that polls them.
#[inline(always)]
pub(crate) fn outside<R>(code: impl FnOnce() -> R) -> R {
    let _depth = is_active().then(|| Depth::at(0));
    code()
}

/// Makes an observer that may start a runtime. See [`outside`].
pub(crate) fn shielded(observer: impl Observer + 'static) -> Arc<dyn Observer> {
    Arc::new(Shielded(observer))
}

struct Shielded<O>(O);

impl<O: Observer> Observer for Shielded<O> {
    fn on_event(&self, event: &Event) {
        outside(|| self.0.on_event(event));
    }
}

/// Restores the outer depth, also when the code inside panics.
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
    use std::time::Duration;

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        block_on(async {
            let hour = BlockingClock.now() + Duration::from_secs(3600);
            let mut sleep = Box::pin(sleep_until(hour));
            let poll = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll.is_pending());
            assert_eq!(TIMERS.with_borrow(Timers::len), 1);
            drop(sleep);
            assert_eq!(TIMERS.with_borrow(Timers::len), 0);
        });
    }
}
