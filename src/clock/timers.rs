//! Wakers in the order of their deadlines.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::instant::Instant;

/// Who waits until when; those who wait for one instant are woken in the order they came.
#[derive(Debug, Default)]
pub(super) struct Timers {
    next_key: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self {
            next_key: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Registers the waker of one sleep, or replaces it when `key` says it is registered already.
    pub(super) fn register(&mut self, deadline: Instant, key: &mut Option<u64>, waker: &Waker) {
        let key = *key.get_or_insert_with(|| {
            self.next_key += 1;
            self.next_key
        });
        self.waiting
            .entry((deadline, key))
            .and_modify(|waiting| waiting.clone_from(waker))
            .or_insert_with(|| waker.clone());
    }

    pub(super) fn cancel(&mut self, deadline: Instant, key: u64) {
        self.waiting.remove(&(deadline, key));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Takes the first of those whose deadline is `now` or earlier.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Waker)> {
        let first = self.waiting.first_entry()?;
        let (deadline, _) = *first.key();
        (deadline <= now).then(|| (deadline, first.remove()))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
