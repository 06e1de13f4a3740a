//! Tokio's time, kept from going back between runtimes.
//!
//! Time goes back between two readings only if they come from two runtimes, the first of which was paused and ran
//! ahead of the system's clock. So each runtime is shifted once, at its first reading, to begin no earlier than the
//! newest reading of all others. It is not shifted again: a paused test must not move the time of tests that run in
//! parallel. Runtimes that read the system's time at first, and threads outside all runtimes, share one shift,
//! because a thread may use the handles of a runtime's tasks.
//!
//! Only tokio's feature `test-util` can pause a runtime. Without it, all of this compiles to nothing.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as StdInstant};

use tokio::runtime::{Builder, Handle, Id};

use super::system;
use crate::instant::{Instant, nanos};
use crate::sync::lock;

/// Returns the time of the current runtime.
#[inline]
pub(super) fn now() -> Instant {
    let reading = raw();
    if !can_pause() {
        return reading;
    }
    let window = WINDOW.get();
    let since = reading.as_nanos().wrapping_sub(window.from);
    if since < WINDOW_WIDTH && window.runtime == current() {
        return reading.after(window.shift);
    }
    let (reading, shift) = register();
    reading.after(shift)
}

/// Converts `at` to an instant of the current runtime. Returns `None` if it is too late to represent.
#[inline]
pub(super) fn to_std(at: Instant) -> Option<StdInstant> {
    if can_pause() && IS_SHIFTED.load(Ordering::Acquire) {
        let (_, shift) = register();
        return system::to_std(Instant::from_nanos(at.as_nanos().saturating_sub(shift)));
    }
    system::to_std(at)
}

#[inline]
fn raw() -> Instant {
    system::from_std(tokio::time::Instant::now().into_std())
}

/// Returns the current runtime; `None` outside of all runtimes, where time is the system's.
fn current() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Returns whether tokio is built with `test-util`.
///
/// Only then does its builder have a method `start_paused`, which takes precedence over the trait method of the same
/// name.
#[inline(always)]
fn can_pause() -> bool {
    trait Answer {
        const CAN_PAUSE: bool;
    }
    struct NoSuchMethod;
    impl Answer for NoSuchMethod {
        const CAN_PAUSE: bool = false;
    }
    impl Answer for &mut Builder {
        const CAN_PAUSE: bool = true;
    }

    #[allow(dead_code, reason = "not used with `test-util`")]
    trait WithoutTestUtil: Sized {
        fn start_paused(self, _: bool) -> NoSuchMethod {
            NoSuchMethod
        }
    }
    impl WithoutTestUtil for &mut Builder {}

    const fn answer<'a, A: Answer>(_: &impl FnOnce(&'a mut Builder) -> A) -> bool {
        A::CAN_PAUSE
    }
    answer(&|builder| builder.start_paused(true))
}

/// A range of readings that need no lock.
#[derive(Clone, Copy)]
struct Window {
    runtime: Option<Id>,
    from: u64,
    shift: u64,
}

const WINDOW_WIDTH: u64 = nanos(Duration::from_millis(1));

thread_local! {
    /// The latest registered reading of this thread, and the shift of its runtime.
    static WINDOW: Cell<Window> = const {
        Cell::new(Window { runtime: None, from: u64::MAX, shift: 0 })
    };
}

static RUNTIMES: Mutex<Runtimes> = Mutex::new(Runtimes {
    newest: Instant::ORIGIN,
    system: None,
    shifts: VecDeque::new(),
});

/// Whether any runtime has a shift.
static IS_SHIFTED: AtomicBool = AtomicBool::new(false);

/// Reads the time and records it. Returns the unshifted reading, and the shift of the runtime.
#[cold]
fn register() -> (Instant, u64) {
    let runtime = current();
    let mut runtimes = lock(&RUNTIMES);
    // Read under the lock, after `newest` was: so a smaller reading means that this clock is behind.
    let before = system::now();
    let reading = raw();
    let is_system = (before..=system::now()).contains(&reading);
    let shift = runtimes.shift(runtime, is_system, reading);
    runtimes.newest = runtimes.newest.max(reading.after(shift));
    if shift > 0 {
        IS_SHIFTED.store(true, Ordering::Release);
    }
    drop(runtimes);
    WINDOW.set(Window {
        runtime,
        from: reading.as_nanos(),
        shift,
    });
    (reading, shift)
}

struct Runtimes {
    /// The newest registered time. Unregistered readings may be up to a window's width later.
    newest: Instant,
    /// The shift of the system's time, once known.
    system: Option<u64>,
    /// The shifts of the runtimes, the most recently used one last.
    shifts: VecDeque<(Option<Id>, u64)>,
}

impl Runtimes {
    /// The most runtimes that are remembered. An evicted one counts as new when it reads the time again.
    const CAPACITY: usize = 1024;

    /// Returns the shift of `runtime`, whose clock reads `reading`. `is_system` means that this is the system's time.
    fn shift(&mut self, runtime: Option<Id>, is_system: bool, reading: Instant) -> u64 {
        let begin = match reading >= self.newest {
            true => 0,
            false => self.newest.after(WINDOW_WIDTH).as_nanos() - reading.as_nanos(),
        };
        let shift = match self.shifts.iter().rposition(|known| known.0 == runtime) {
            Some(last) if last + 1 == self.shifts.len() => return self.shifts[last].1,
            Some(known) => self.shifts.remove(known).map_or(0, |(_, shift)| shift),
            None if is_system => *self.system.get_or_insert(begin),
            None => begin,
        };
        if self.shifts.len() == Self::CAPACITY {
            self.shifts.pop_front();
        }
        self.shifts.push_back((runtime, shift));
        shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Runtime;

    fn paused() -> Runtime {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    }

    fn advance(runtime: &Runtime, by: Duration) {
        runtime.block_on(tokio::time::advance(by));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_tests_of_this_crate_can_pause_time() {
        assert!(can_pause());
    }

    #[test]
    fn a_new_runtime_begins_at_the_newest_time() {
        let (first, second) = (paused(), paused());
        first.block_on(async { now() });
        advance(&first, HOUR);
        let reached = first.block_on(async { now() });
        let begin = second.block_on(async { now() });
        assert!(begin >= reached);
        advance(&second, HOUR);
        assert_eq!(second.block_on(async { now() }), begin + HOUR);
    }

    #[test]
    fn a_known_runtime_is_not_shifted_again() {
        let (first, second) = (paused(), paused());
        let begin = second.block_on(async { now() });
        first.block_on(async { now() });
        advance(&first, 2 * HOUR);
        first.block_on(async { now() });
        advance(&second, HOUR);
        assert_eq!(second.block_on(async { now() }), begin + HOUR);
    }

    #[test]
    fn a_thread_outside_shares_the_time_of_a_runtime_that_was_never_paused() {
        let mut builder = Builder::new_current_thread();
        let (real, ahead) = (builder.enable_time().build().unwrap(), paused());
        let begin = real.block_on(async { now() });
        ahead.block_on(async { now() });
        advance(&ahead, HOUR);
        ahead.block_on(async { now() });
        let outside = std::thread::spawn(now).join().unwrap();
        let end = real.block_on(async { now() });
        assert!(
            (begin..=end).contains(&outside),
            "{begin:?} {outside:?} {end:?}"
        );
    }

    #[test]
    fn a_runtime_that_is_paused_later_keeps_its_shift() {
        let mut builder = Builder::new_current_thread();
        let (real, ahead) = (builder.enable_time().build().unwrap(), paused());
        real.block_on(async { now() });
        ahead.block_on(async { now() });
        advance(&ahead, HOUR);
        ahead.block_on(async { now() });
        real.block_on(async {
            let before = now();
            tokio::time::pause();
            assert!(now().saturating_duration_since(before) < HOUR);
            tokio::time::advance(HOUR).await;
            assert!(now().saturating_duration_since(before) < 2 * HOUR);
        });
    }

    #[test]
    fn timers_have_the_shift_of_their_runtime() {
        let (first, second) = (paused(), paused());
        advance(&first, HOUR);
        first.block_on(async { now() });
        second.block_on(async {
            let deadline = now() + HOUR;
            assert_eq!(
                to_std(deadline),
                Some((tokio::time::Instant::now() + HOUR).into_std())
            );
        });
    }

    #[test]
    fn the_runtime_that_read_the_time_longest_ago_is_forgotten() {
        let ids: Vec<_> = (0..Runtimes::CAPACITY + 1)
            .map(|_| paused().handle().id())
            .collect();
        let mut runtimes = Runtimes {
            newest: Instant::from_nanos(5),
            system: None,
            shifts: VecDeque::new(),
        };
        let at = Instant::from_nanos(2);
        for &id in &ids[..Runtimes::CAPACITY] {
            assert_eq!(runtimes.shift(Some(id), false, at), WINDOW_WIDTH + 3);
        }
        runtimes.newest = Instant::from_nanos(9);
        assert_eq!(runtimes.shift(Some(ids[0]), false, at), WINDOW_WIDTH + 3);
        assert_eq!(
            runtimes.shift(Some(ids[Runtimes::CAPACITY]), false, at),
            WINDOW_WIDTH + 7
        );
        assert_eq!(runtimes.shift(Some(ids[0]), false, at), WINDOW_WIDTH + 3);
        assert_eq!(runtimes.shift(Some(ids[1]), false, at), WINDOW_WIDTH + 7);
    }
}
