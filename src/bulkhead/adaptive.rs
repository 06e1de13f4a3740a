//! Feeds samples to a limit algorithm, one at a time and never under a lock.

use std::collections::VecDeque;
use std::fmt;

use super::state::{ConcurrencyLimit, MAX_PERMITS, Sample};
use crate::rng::SharedRng;
use crate::sync::{Mutex, lock_checked};

/// A limit algorithm with an inbox.
///
/// A call that brings a sample takes the algorithm out, runs a few samples, and puts it back. Samples
/// that arrive in between stay in the inbox. So no call waits for an update, an algorithm that uses
/// its own bulkhead does not lock itself out, and a slow algorithm costs each call a bounded time.
pub(super) struct Adaptive {
    /// For samples.
    pub(super) rng: SharedRng,
    state: Mutex<State>,
}

struct State {
    /// `None` while a call runs it.
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
    inbox: VecDeque<Sample>,
}

/// Samples beyond this number are dropped.
const INBOX: usize = 64;
/// Samples that one call runs at most. More than one, so that the inbox drains.
const PER_CALL: usize = 2;

impl Adaptive {
    pub(super) fn new(algorithm: Box<dyn ConcurrencyLimit>, seed: Option<u64>) -> Self {
        Self {
            rng: SharedRng::new(seed),
            state: Mutex::new(State {
                algorithm: Some(algorithm),
                inbox: VecDeque::new(),
            }),
        }
    }

    /// Adds a sample, runs the oldest ones unless another call does, and calls `apply` with the limit
    /// after each. It is a limit that a bulkhead can have: another one would never be the current
    /// limit, and be applied again and again.
    pub(super) fn sample(&self, sample: Sample, mut apply: impl FnMut(u32)) {
        let algorithm = {
            let mut state = lock_checked(&self.state);
            if state.inbox.len() < INBOX {
                state.inbox.push_back(sample);
            }
            state.algorithm.take()
        };
        let Some(algorithm) = algorithm else {
            return;
        };
        let mut lent = Lent {
            adaptive: self,
            algorithm: Some(algorithm),
        };
        for _ in 0..PER_CALL {
            let next = lock_checked(&self.state).inbox.pop_front();
            let (Some(sample), Some(algorithm)) = (next, &mut lent.algorithm) else {
                break;
            };
            algorithm.on_sample(&sample);
            apply(algorithm.limit().clamp(1, MAX_PERMITS));
        }
    }
}

/// Puts the algorithm back, also after a panic.
struct Lent<'a> {
    adaptive: &'a Adaptive,
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        lock_checked(&self.adaptive.state).algorithm = self.algorithm.take();
    }
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The algorithm's `Debug` is user code and not run under the lock.
        f.debug_struct("Adaptive").finish_non_exhaustive()
    }
}
