//! Tokio timers that stay registered after the call they served has ended.
//!
//! Registering a timer takes the lock of the runtime's timer wheel, and so does cancelling it. Both together are the
//! most expensive part of a call with a timeout, mostly in vain, because timeouts rarely fire. So a timer returns to
//! a pool of its thread, still registered, and the next call takes it if it fires no later than needed. If it then
//! fires too early, it is moved to the deadline of the call. That happens once per timeout's length instead of once
//! per call.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::task::coop;
use tokio::time::Sleep;

use crate::clock::{counter, system};
use crate::instant::Instant;
use crate::sync::lock;

#[cfg(test)]
mod tests;

/// The most timers that a thread keeps. More concurrent sleeps on one thread are rare; they register timers of their
/// own, as without a pool.
const POOL: usize = 32;

thread_local! {
    static PARKED: RefCell<Vec<Armed>> = const { RefCell::new(Vec::new()) };
}

/// A registered tokio timer. One word, because each call moves it from the pool and back.
pub(super) struct Armed(Box<Registered>);

struct Registered {
    sleep: Pin<Box<Sleep>>,
    /// The waiter that it wakes. The timer holds this and not a task's waker, so a parked timer keeps no finished
    /// task alive, and parking touches neither the timer wheel nor the runtime.
    waiter: Arc<Waiter>,
    /// The deadline it is registered for.
    at: Instant,
    /// The runtime that drives the timer.
    runtime: runtime::Id,
}

impl Armed {
    /// Returns a timer that fires at `deadline` or earlier.
    #[inline]
    pub(super) fn take(deadline: Instant) -> Self {
        let runtime = Handle::current().id();
        let parked = PARKED.with_borrow_mut(|pool| {
            // A timer of another runtime may never fire, because that runtime may have ended.
            let fits = |armed: &Self| armed.0.runtime == runtime && armed.0.at <= deadline;
            // The newest timer is the most likely to be far from firing, and to be in the CPU's cache.
            let found = pool.iter().rposition(fits)?;
            Some(pool.swap_remove(found))
        });
        parked.unwrap_or_else(|| Self::register(deadline, runtime))
    }

    #[cold]
    fn register(deadline: Instant, runtime: runtime::Id) -> Self {
        let mut armed = Self(Box::new(Registered {
            sleep: Box::pin(tokio::time::sleep_until(std_deadline(deadline).into())),
            waiter: Arc::default(),
            at: deadline,
            runtime,
        }));
        armed.listen();
        armed
    }

    /// Returns whether it has fired. Otherwise registers `waker`.
    #[inline]
    pub(super) fn has_fired(&self, waker: &Waker) -> bool {
        let waiting = lock(&self.0.waiter.waiting);
        if waiting.fired {
            return true;
        }
        let is_known = waiting
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker));
        drop(waiting);
        !is_known && self.wake_when_fired(waker.clone())
    }

    /// Sets the waker. Returns `true` if the timer has fired already.
    #[inline]
    pub(super) fn wake_when_fired(&self, waker: Waker) -> bool {
        let mut waiting = lock(&self.0.waiter.waiting);
        let fired = waiting.fired;
        // Cloned before the lock and dropped after it, because a waker may be user code.
        let replaced = if fired {
            Some(waker)
        } else {
            waiting.waker.replace(waker)
        };
        drop(waiting);
        drop(replaced);
        fired
    }

    /// Registers a timer that has fired again.
    #[cold]
    pub(super) fn move_to(&mut self, deadline: Instant) {
        self.0.sleep.as_mut().reset(std_deadline(deadline).into());
        self.0.at = deadline;
        lock(&self.0.waiter.waiting).fired = false;
        self.listen();
    }

    /// Leaves the timer registered for the next call of this thread.
    #[inline(never)]
    pub(super) fn park(self) {
        // Dropped outside the lock, because dropping a waker may run user code.
        let waker = lock(&self.0.waiter.waiting).waker.take();
        drop(waker);
        // If the thread's storage has been destroyed, the timer is dropped.
        let _ = PARKED.try_with(|pool| {
            // Declared outside the closure, so that it is dropped after the borrow has ended.
            let mut oldest = None;
            let mut pool = pool.borrow_mut();
            if pool.len() == POOL {
                // Removes the oldest, because otherwise timers of ended runtimes would fill the pool.
                oldest = Some(pool.remove(0));
            }
            pool.push(self);
            drop(pool);
            drop(oldest);
        });
    }

    /// Makes the timer wake the waiter when it fires.
    fn listen(&mut self) {
        let waker = Waker::from(self.0.waiter.clone());
        // Without the task's cooperation budget: once that is used up, a timer would not even register.
        let mut sleep = coop::unconstrained(self.0.sleep.as_mut());
        if Pin::new(&mut sleep)
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            lock(&self.0.waiter.waiting).fired = true;
        }
    }
}

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Armed")
            .field("at", &self.0.at)
            .field("runtime", &self.0.runtime)
            .finish_non_exhaustive()
    }
}

/// The waker between a timer and the task that waits for it.
#[derive(Default)]
struct Waiter {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    fired: bool,
    waker: Option<Waker>,
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        let waker = {
            let mut waiting = lock(&self.waiting);
            waiting.fired = true;
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn std_deadline(deadline: Instant) -> std::time::Instant {
    const YEAR: Duration = Duration::from_secs(86_400 * 365);

    let wait = deadline.saturating_duration_since(counter::now());
    // A timer that fires early is moved on, so a deadline that the system's clock cannot represent may be approached
    // in steps.
    system::to_std(system::now() + wait).unwrap_or_else(|| std::time::Instant::now() + YEAR)
}
