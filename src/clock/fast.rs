//! The CPU's counter, with tokio timers that outlive the calls they serve.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use super::pool::Armed;
use super::sleep::SleepKind;
use super::{Clock, ClockHandle, Sleep, blocking};
use crate::instant::Instant;

/// The CPU's time stamp counter through [`quanta`], and tokio timers that stay registered.
///
/// A reading takes 10 ns instead of 23 ns. Timers are the dearest part of a call that has to wait,
/// and timeouts hardly ever fire; so a timer goes back to a small pool of its thread instead of
/// being cancelled, and the next call only has to look at it.
///
/// It is real time by definition: it does not obey tokio's paused time, and a parked timer would
/// let a paused clock jump. Timers fire with tokio's precision of 1 ms.
///
/// # Panics
///
/// As with [`TokioClock`](super::TokioClock), a sleep needs a tokio runtime with time enabled.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FastClock;

impl FastClock {
    /// The clock. The first one in a process calibrates the counter, for up to 200 ms.
    pub fn new() -> Self {
        counter();
        Self
    }
}

impl Clock for FastClock {
    #[inline]
    fn now(&self) -> Instant {
        now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        sleep_until(deadline)
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle::FAST
    }
}

struct Counter {
    clock: quanta::Clock,
    first: u64,
}

#[inline]
fn counter() -> &'static Counter {
    static COUNTER: OnceLock<Counter> = OnceLock::new();
    COUNTER.get_or_init(|| {
        let clock = quanta::Clock::new();
        let first = clock.raw();
        Counter { clock, first }
    })
}

#[inline]
pub(super) fn now() -> Instant {
    let Counter { clock, first } = counter();
    Instant::from_nanos(clock.delta_as_nanos(*first, clock.raw()))
}

pub(super) fn sleep_until(deadline: Instant) -> Sleep {
    match timer(deadline) {
        Some(timer) => Sleep::of(SleepKind::Fast { timer }),
        None => blocking::sleep_from(now(), deadline),
    }
}

/// `None` when it would never fire, and where threads sleep instead.
#[inline]
pub(super) fn timer(deadline: Instant) -> Option<Timer> {
    (deadline != Instant::FAR_FUTURE && !blocking::is_active()).then_some(Timer {
        deadline,
        armed: None,
    })
}

/// A sleep on this clock. It borrows a tokio timer from the pool of its thread.
#[derive(Debug)]
pub(super) struct Timer {
    deadline: Instant,
    armed: Option<Armed>,
}

impl Future for Timer {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, armed } = &mut *self;
        let armed = armed.get_or_insert_with(|| Armed::take(*deadline));
        while armed.has_fired(cx.waker()) {
            // It may have been armed for an earlier deadline, that of a call which is long over.
            if now() >= *deadline {
                return Poll::Ready(());
            }
            armed.move_to(*deadline);
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
