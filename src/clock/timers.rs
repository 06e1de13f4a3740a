//! Wakers ordered by deadline.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::instant::Instant;

/// Wakers of the sleeps of one clock. Sleeps with equal deadlines are woken in the order of registration.
///
/// Cloning or dropping a waker may run user code, so neither happens here, under the caller's lock: wakers are passed
/// in and out by value.
#[derive(Debug, Default)]
pub(super) struct Timers {
    next_key: u64,
    wakers: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self {
            next_key: 0,
            wakers: BTreeMap::new(),
        }
    }

    /// Registers the waker of one sleep and returns the waker that it replaces. `key` identifies the
    /// sleep; it is assigned by the first registration.
    #[must_use = "dropping a waker may run the user's code: drop it outside the lock"]
    pub(super) fn register(
        &mut self,
        deadline: Instant,
        key: &mut Option<u64>,
        waker: Waker,
    ) -> Option<Waker> {
        let key = *key.get_or_insert_with(|| {
            self.next_key += 1;
            self.next_key
        });
        self.wakers.insert((deadline, key), waker)
    }

    #[must_use = "dropping a waker may run the user's code: drop it outside the lock"]
    pub(super) fn cancel(&mut self, deadline: Instant, key: u64) -> Option<Waker> {
        self.wakers.remove(&(deadline, key))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wakers.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Removes the waker with the earliest deadline, if that is `now` or earlier.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Waker)> {
        let first = self.wakers.first_entry()?;
        let (deadline, _) = *first.key();
        (deadline <= now).then(|| (deadline, first.remove()))
    }

    /// Removes all wakers, in the order of their deadlines.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.wakers).into_values()
    }

    pub(super) fn len(&self) -> usize {
        self.wakers.len()
    }
}
