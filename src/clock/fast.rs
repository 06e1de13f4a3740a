//! The CPU's counter, with tokio timers that outlive the calls they serve.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use super::tokio::timer;
use super::{BlockingClock, Clock, ClockHandle, Instant, Kind, Sleep, SleepKind, blocking, real};

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
        ClockHandle(Kind::Fast)
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
    if deadline == Instant::FAR_FUTURE {
        return Sleep::never();
    }
    if blocking::is_active() {
        let wait = deadline.saturating_duration_since(now());
        return blocking::sleep_until(BlockingClock.now() + wait);
    }
    Sleep::of(SleepKind::Fast {
        timer: Timer {
            deadline,
            armed: None,
        },
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

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, armed } = &mut *self;
        let armed = armed.get_or_insert_with(|| Armed::take(*deadline));
        loop {
            ready!(armed.sleep.as_mut().poll(cx));
            // It may have been armed for an earlier deadline, that of a call which is long over.
            if now() >= *deadline {
                return Poll::Ready(());
            }
            armed.reset(*deadline);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(armed) = self.armed.take() {
            armed.park();
        }
    }
}

/// A registered tokio timer, and the runtime whose timer it is.
struct Armed {
    sleep: Pin<Box<tokio::task::coop::Unconstrained<tokio::time::Sleep>>>,
    /// The deadline it is registered for.
    at: Instant,
    runtime: Id,
}

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Armed")
            .field("at", &self.at)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

/// How many timers a thread keeps. More than this many sleeps at once are rare on one thread, and
/// the rest register a timer of their own as they would without a pool.
const POOL: usize = 32;

thread_local! {
    static PARKED: RefCell<Vec<Armed>> = const { RefCell::new(Vec::new()) };
}

impl Armed {
    /// A timer that fires at `deadline` or earlier.
    fn take(deadline: Instant) -> Self {
        let runtime = Handle::current().id();
        let parked = PARKED.with_borrow_mut(|pool| {
            // A timer of another runtime may never fire: its runtime may be gone.
            let fits = |armed: &Self| armed.runtime == runtime && armed.at <= deadline;
            let found = pool.iter().rposition(fits)?;
            Some(pool.swap_remove(found))
        });
        parked.unwrap_or_else(|| Self {
            sleep: Box::pin(timer(std_deadline(deadline))),
            at: deadline,
            runtime,
        })
    }

    /// Moves the timer to `deadline`, by replacing the one that has fired.
    fn reset(&mut self, deadline: Instant) {
        self.sleep.set(timer(std_deadline(deadline)));
        self.at = deadline;
    }

    /// Leaves the timer registered for the next call of this thread.
    ///
    /// Only while its own runtime is running this: anywhere else the runtime may be shutting down.
    fn park(mut self) {
        if Handle::try_current().is_ok_and(|handle| handle.id() == self.runtime) {
            // The finished task must not be kept alive, or woken, by a timer nobody waits for.
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = self.sleep.as_mut().poll(&mut nobody);
            // The thread's storage may be gone already; then the timer is just dropped.
            let _ = PARKED.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() == POOL {
                    // The oldest go, or timers of runtimes long gone would fill the pool.
                    pool.remove(0);
                }
                pool.push(self);
            });
        }
    }
}

fn std_deadline(deadline: Instant) -> std::time::Instant {
    const YEAR: Duration = Duration::from_secs(86_400 * 365);

    let wait = deadline.saturating_duration_since(now());
    // A timer that fires early is moved on, so a deadline that the system's clock cannot express
    // may be approached in steps.
    real::to_std(BlockingClock.now() + wait).unwrap_or_else(|| std::time::Instant::now() + YEAR)
}
