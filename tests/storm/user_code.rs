//! User code that panics at random: keys, wakers, observers, and every caller of [`user_code`].

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::task::Wake;

use backstop::{Event, Observer};

thread_local! {
    pub(crate) static DICE: Cell<u64> = const { Cell::new(0) };
    /// User code of this thread panics once in this many calls. Zero for never.
    pub(crate) static ODDS: Cell<u64> = const { Cell::new(0) };
}

pub(crate) fn roll(sides: u64) -> u64 {
    let state = DICE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    DICE.set(state);
    let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ z >> 31) % sides
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum User {
    Operation,
    Observer,
    Hook,
    Key,
    Waker,
}

pub(crate) static PANICS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// The payload of the panics. They are no failures of the test, so they bypass the panic hook.
struct Thrown;

pub(crate) fn user_code(kind: User) {
    let odds = ODDS.get();
    if odds > 0 && !std::thread::panicking() && roll(odds) == 0 {
        PANICS[kind as usize].fetch_add(1, SeqCst);
        resume_unwind(Box::new(Thrown));
    }
}

/// Runs `act`. Returns `None` if user code panicked in it; other panics propagate.
pub(crate) fn survive<R>(act: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Thrown>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

pub(crate) static KEYS_ALIVE: AtomicI64 = AtomicI64::new(0);

#[derive(Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    pub(crate) fn new(key: u64) -> Self {
        KEYS_ALIVE.fetch_add(1, SeqCst);
        Self(key)
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        user_code(User::Key);
        Self::new(self.0)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        user_code(User::Key);
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        user_code(User::Key);
        // Few hash values, so that keys collide and are compared.
        (self.0 % 7).hash(state);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        KEYS_ALIVE.fetch_sub(1, SeqCst);
        user_code(User::Key);
    }
}

/// Wakes, drops and panics.
pub(crate) struct Bell(pub(crate) Arc<AtomicBool>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, SeqCst);
        user_code(User::Waker);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        user_code(User::Waker);
    }
}

#[derive(Clone, Default)]
pub(crate) struct Ears(pub(crate) Arc<AtomicU64>);

impl Observer for Ears {
    fn on_event(&self, event: &Event) {
        if matches!(event, Event::CallFinished { .. }) {
            self.0.fetch_add(1, SeqCst);
        }
        user_code(User::Observer);
    }
}
