//! Makes user clocks, which may go backwards, monotonic.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::timeline::Timeline;
use super::timers::Timers;
use super::{Clock, Sleep};
use crate::event::Panics;
use crate::instant::Instant;
use crate::sync::lock;

/// A user's clock whose time never goes back.
///
/// No user code, of the clock or of wakers, runs under a lock.
pub(super) struct Monotonic {
    clock: Arc<dyn Clock>,
    timeline: Timeline,
    /// Pending sleeps, which a backward jump wakes.
    sleeps: Mutex<Timers>,
}

/// The clocks in use, by address. All handles of one `Arc` must share its timeline, and handles with equal addresses
/// must be the same clock. A clock keeps its address as long as its entry can be upgraded.
static CLOCKS: Mutex<BTreeMap<usize, Weak<Monotonic>>> = Mutex::new(BTreeMap::new());

impl Monotonic {
    /// Returns the wrapper of `clock`. There is only one as long as any handle uses it.
    pub(super) fn of(clock: Arc<dyn Clock>) -> Arc<Self> {
        let address = address(&clock);
        let mut clocks = lock(&CLOCKS);
        if let Some(known) = clocks.get(&address).and_then(Weak::upgrade) {
            // Unlocked before `clock` is dropped, which may be the last reference to the user's clock.
            drop(clocks);
            return known;
        }
        let new = Arc::new(Self {
            clock,
            timeline: Timeline::new(),
            sleeps: Mutex::new(Timers::new()),
        });
        clocks.insert(address, Arc::downgrade(&new));
        new
    }

    /// Returns the address, which identifies the clock while this exists.
    pub(super) fn address(&self) -> usize {
        address(&self.clock)
    }

    pub(super) fn now(&self) -> Instant {
        let (now, has_jumped) = self.timeline.now(|| self.clock.now());
        if has_jumped {
            self.wake_sleeps();
        }
        now
    }

    pub(super) fn sleep_until(self: &Arc<Self>, deadline: Instant) -> Sleep {
        if deadline == Instant::FAR_FUTURE {
            return Sleep::never();
        }
        let shift = self.timeline.shift();
        Sleep::new(Translated {
            inner: self.sleep_of_clock(deadline, shift),
            clock: self.clone(),
            deadline,
            shift,
            key: None,
        })
    }

    /// Returns the clock's own sleep until `deadline`, translated to the clock's own time.
    fn sleep_of_clock(&self, deadline: Instant, shift: u64) -> Sleep {
        let deadline = deadline.as_nanos().saturating_sub(shift);
        self.clock.sleep_until(Instant::from_nanos(deadline))
    }

    /// Wakes all sleeps, so that they translate their deadlines again.
    #[cold]
    fn wake_sleeps(&self) {
        let sleeps = lock(&self.sleeps).take_all();
        let mut panics = Panics::default();
        panics.wake(sleeps);
        panics.resume();
    }
}

fn address(clock: &Arc<dyn Clock>) -> usize {
    Arc::as_ptr(clock).cast::<()>() as usize
}

impl Drop for Monotonic {
    fn drop(&mut self) {
        let address = self.address();
        let mut clocks = lock(&CLOCKS);
        // Another handle of the same `Arc` may have made a new entry meanwhile.
        if clocks
            .get(&address)
            .is_some_and(|clock| clock.strong_count() == 0)
        {
            clocks.remove(&address);
        }
    }
}

impl fmt::Debug for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clock.fmt(f)
    }
}

pin_project! {
    /// A sleep of a user's clock that is restarted when a backward jump has moved its deadline.
    struct Translated {
        clock: Arc<Monotonic>,
        deadline: Instant,
        // The shift at the start of `inner`.
        shift: u64,
        key: Option<u64>,
        #[pin]
        inner: Sleep,
    }

    impl PinnedDrop for Translated {
        fn drop(this: Pin<&mut Self>) {
            if let Some(key) = this.key {
                let waker = lock(&this.clock.sleeps).cancel(this.deadline, key);
                drop(waker);
            }
        }
    }
}

impl Future for Translated {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            if this.inner.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Cloned before the lock and dropped after it, because a waker may be user code.
            let waker = cx.waker().clone();
            let replaced = lock(&this.clock.sleeps).register(*this.deadline, this.key, waker);
            drop(replaced);
            // Registers before reading the shift, so that a jump either wakes the waker or is seen here.
            let shift = this.clock.timeline.shift();
            if shift == *this.shift {
                return Poll::Pending;
            }
            *this.shift = shift;
            let inner = this.clock.sleep_of_clock(*this.deadline, shift);
            this.inner.set(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, reentrant};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn handles_of_one_arc_share_a_timeline_that_ends_with_them() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
        let first = Monotonic::of(clock.clone());
        assert!(Arc::ptr_eq(&first, &Monotonic::of(clock.clone())));
        let other: Arc<dyn Clock> = Arc::new(ManualClock::new());
        assert!(!Arc::ptr_eq(&first, &Monotonic::of(other)));
        let address = first.address();
        assert!(lock(&CLOCKS).contains_key(&address));
        drop(first);
        // `clock` is still at the address, so no other clock can own this entry.
        assert!(!lock(&CLOCKS).contains_key(&address));
        assert_eq!(Monotonic::of(clock).address(), address);
    }

    #[test]
    fn wakers_may_use_the_clock_when_they_are_dropped() {
        let clock = Monotonic::of(Arc::new(ManualClock::new()));
        let sleep = clock.sleep_until(Instant::ORIGIN + SECOND);
        let code = move || assert!(clock.sleeps.try_lock().is_ok());
        reentrant::drop_wakers(sleep, code);
    }
}
