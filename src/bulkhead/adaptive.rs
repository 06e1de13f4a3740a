//! Feeds samples to a limit algorithm: one at a time, never under a lock.

use std::collections::VecDeque;
use std::fmt;

use super::state::{ConcurrencyLimit, MAX_PERMITS, Sample};
use crate::sync::{Mutex, lock_checked};

/// An algorithm with an inbox.
///
/// Whoever has a sample takes the algorithm out, runs it, and puts it back. Samples that come
/// meanwhile go into the inbox and are run by the one who has it. So nobody waits for an update, and
/// an algorithm that uses its own bulkhead does not lock itself out.
pub(super) struct Adaptive {
    seat: Mutex<Seat>,
}

struct Seat {
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
    inbox: VecDeque<Sample>,
}

/// How many samples wait for an update that is under way; more are dropped.
const INBOX: usize = 64;

impl Adaptive {
    pub(super) fn new(algorithm: Box<dyn ConcurrencyLimit>) -> Self {
        Self {
            seat: Mutex::new(Seat {
                algorithm: Some(algorithm),
                inbox: VecDeque::new(),
            }),
        }
    }

    /// Runs a sample, and calls `apply` with the limit that follows, once for each sample. It is one that a
    /// bulkhead can have: another would never be the present one, and be applied again and again.
    pub(super) fn sample(&self, sample: Sample, mut apply: impl FnMut(u32)) {
        let algorithm = {
            let mut seat = lock_checked(&self.seat);
            match seat.algorithm.take() {
                Some(algorithm) => algorithm,
                None => {
                    if seat.inbox.len() < INBOX {
                        seat.inbox.push_back(sample);
                    }
                    return;
                }
            }
        };
        let mut turn = Turn {
            adaptive: self,
            algorithm: Some(algorithm),
        };
        let mut next = Some(sample);
        while let Some(sample) = next {
            if let Some(algorithm) = &mut turn.algorithm {
                algorithm.on_sample(&sample);
                apply(algorithm.limit().clamp(1, MAX_PERMITS));
            }
            next = turn.next();
        }
    }
}

/// Has the algorithm, and puts it back whatever happens.
struct Turn<'a> {
    adaptive: &'a Adaptive,
    algorithm: Option<Box<dyn ConcurrencyLimit>>,
}

impl Turn<'_> {
    /// The next sample of the inbox; when there is none, the algorithm has been put back.
    fn next(&mut self) -> Option<Sample> {
        let mut seat = lock_checked(&self.adaptive.seat);
        let next = seat.inbox.pop_front();
        if next.is_none() {
            seat.algorithm = self.algorithm.take();
        }
        next
    }
}

impl Drop for Turn<'_> {
    /// After a panic of the algorithm.
    fn drop(&mut self) {
        if let Some(algorithm) = self.algorithm.take() {
            lock_checked(&self.adaptive.seat).algorithm = Some(algorithm);
        }
    }
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The lock is not held while the user's `Debug` runs, so the algorithm is not shown.
        f.debug_struct("Adaptive").finish_non_exhaustive()
    }
}
