//! Passes samples to a limit algorithm, one at a time and outside locks.

use std::collections::VecDeque;
use std::fmt;

use super::state::{ConcurrencyLimit, MAX_PERMITS, Sample};
use crate::blocking;
use crate::rng::SharedRng;
use crate::sync::{Mutex, lock_checked};

/// A limit algorithm with a queue of samples.
///
/// A call that adds a sample takes the algorithm, passes a few samples to it, and puts it back. Samples that arrive
/// meanwhile stay in the queue. So no call waits for an update, an algorithm that uses its own bulkhead does not
/// deadlock, and a slow algorithm costs each call a bounded time.
pub(super) struct Adaptive {
    /// Source of [`Sample::random`].
    pub(super) rng: SharedRng,
    state: Mutex<State>,
}

struct State {
    /// `None` while a call runs it.
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
    queue: VecDeque<Sample>,
}

/// Capacity of the queue. Further samples are dropped.
const CAPACITY: usize = 64;
/// Most samples that one call passes on. More than one, so that the queue drains.
const PER_CALL: usize = 2;

impl Adaptive {
    pub(super) fn new(algorithm: Box<dyn ConcurrencyLimit>, seed: Option<u64>) -> Self {
        Self {
            rng: SharedRng::new(seed),
            state: Mutex::new(State {
                algorithm: Some(algorithm),
                queue: VecDeque::new(),
            }),
        }
    }

    /// Adds a sample, passes the oldest ones to the algorithm unless another call does so, and passes the limit to
    /// `apply` after each. The limit is clamped to the range of a bulkhead. Otherwise it would never equal the current
    /// limit, and would be applied again after each sample.
    pub(super) fn sample(&self, sample: Sample, mut apply: impl FnMut(u32)) {
        let algorithm = {
            let mut state = lock_checked(&self.state);
            if state.queue.len() < CAPACITY {
                state.queue.push_back(sample);
            }
            state.algorithm.take()
        };
        let Some(algorithm) = algorithm else {
            return;
        };
        let mut borrowed = BorrowedAlgorithm {
            adaptive: self,
            algorithm: Some(algorithm),
        };
        for _ in 0..PER_CALL {
            let next = lock_checked(&self.state).queue.pop_front();
            let (Some(sample), Some(algorithm)) = (next, &mut borrowed.algorithm) else {
                break;
            };
            let limit = blocking::outside(|| {
                algorithm.on_sample(&sample);
                algorithm.limit()
            });
            apply(limit.clamp(1, MAX_PERMITS));
        }
    }
}

/// Puts the algorithm back, even after a panic.
struct BorrowedAlgorithm<'a> {
    adaptive: &'a Adaptive,
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
}

impl Drop for BorrowedAlgorithm<'_> {
    fn drop(&mut self) {
        lock_checked(&self.adaptive.state).algorithm = self.algorithm.take();
    }
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The algorithm's `Debug` is user code, which must not run under the lock.
        f.debug_struct("Adaptive").finish_non_exhaustive()
    }
}
