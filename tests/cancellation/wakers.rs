//! Wakers of every public future: the newest one is woken, none is kept, and any may poll at once.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::futures::{Boxed, FUTURES};
use super::watchdog::within_a_minute;
use super::world::{STEP, World};

/// More steps of time than any of the futures takes.
const ENOUGH: u32 = 1000;

/// Records whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    for (name, make) in FUTURES {
        let world = World::new();
        let mut future = make(&world);
        for polls in 0.. {
            // A task that moves has another waker each time.
            let flag = Arc::new(Flag::default());
            let waker = Waker::from(flag.clone());
            if future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                break;
            }
            let mut steps = 0;
            while !flag.take() {
                steps += 1;
                assert!(steps < ENOUGH, "{name} sleeps for good after {polls} polls");
                world.clock.advance(STEP / 2);
            }
        }
    }
}

#[test]
fn a_future_that_is_dropped_keeps_no_waker() {
    for (name, make) in FUTURES {
        for polls in 0..ENOUGH {
            let world = World::new();
            let mut future = make(&world);
            let flags = [Arc::new(Flag::default()), Arc::new(Flag::default())];
            let mut ended = false;
            for poll in 0..polls {
                let waker = Waker::from(flags[poll as usize % 2].clone());
                ended = future
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_ready();
                if ended {
                    break;
                }
                drop(waker);
                world.clock.advance(STEP);
            }
            drop(future);
            for flag in &flags {
                assert_eq!(Arc::strong_count(flag), 1, "{name} after {polls} polls");
            }
            if ended {
                break;
            }
        }
    }
}

thread_local! {
    /// The future, unless it is being polled.
    static FUTURE: RefCell<Option<Boxed<'static>>> = const { RefCell::new(None) };
    static WOKEN: Cell<bool> = const { Cell::new(false) };
}

/// Polls the future in the call that wakes it.
struct Inline;

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        WOKEN.set(true);
        poll_now();
    }
}

fn poll_now() {
    while let Some(mut future) = FUTURE.take() {
        WOKEN.set(false);
        let waker = Waker::from(Arc::new(Inline));
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            return;
        }
        FUTURE.set(Some(future));
        if !WOKEN.get() {
            return;
        }
    }
}

#[test]
fn a_waker_may_poll_in_the_call_that_wakes_it() {
    within_a_minute(|| {
        for (name, make) in FUTURES {
            let world: &'static World = Box::leak(Box::new(World::new()));
            FUTURE.set(Some(make(world)));
            poll_now();
            let mut steps = 0;
            while FUTURE.with_borrow(Option::is_some) {
                steps += 1;
                assert!(steps < ENOUGH, "{name} sleeps for good");
                world.clock.advance(STEP / 2);
            }
            world.assert_nothing_is_left(name);
        }
    });
}
