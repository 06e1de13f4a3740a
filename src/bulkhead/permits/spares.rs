//! Permits that stay near the threads that gave them back.

use crate::striped::home;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock_checked};

/// Permits that are free, though their word counts them as out: each part keeps a few for the threads
/// that share it, so that threads with permits of their own do not fight for the word.
///
/// Parts are open or closed. Nobody takes a permit out of a closed one, and who leaves one there takes
/// one out again, for everybody. To close all parts is to know again exactly what is free: see
/// [`Permits`](super::Permits), which does so before it refuses anybody.
#[derive(Debug)]
pub(crate) struct Spares {
    /// As many as a power of two, or none.
    parts: Box<[Part]>,
    /// The most permits one part keeps.
    most: AtomicU32,
    /// Odd while parts may be open. Another number whenever they have been.
    turn: AtomicU64,
    /// Held by whoever opens or closes them.
    gate: Mutex<()>,
}

/// The permits it keeps, and `CLOSED`. By itself in its cache line, and in the pair of lines that
/// processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Part(AtomicU32);

/// A closed part looks fuller than any.
const CLOSED: u32 = 1 << 31;

/// More parts than this are more to look through before a refusal than threads win by them.
const MOST_PARTS: u32 = 16;

impl Spares {
    /// No permits are kept.
    pub(super) fn none() -> Self {
        Self::of(0, 1)
    }

    /// As many parts as there are processors, but for half of `limit` at most.
    pub(super) fn for_limit(limit: u32) -> Self {
        let wanted = processors().min(MOST_PARTS).min(limit / 2);
        let parts = match wanted {
            // One part is no better than the word itself.
            0 | 1 => 0,
            _ => 1 << wanted.ilog2(),
        };
        Self::of(parts, limit)
    }

    /// Open, and empty.
    pub(super) fn of(parts: u32, limit: u32) -> Self {
        let spares = Self {
            parts: (0..parts).map(|_| Part(AtomicU32::new(0))).collect(),
            most: AtomicU32::new(0),
            turn: AtomicU64::new(u64::from(parts > 0)),
            gate: Mutex::new(()),
        };
        spares.follow(limit);
        spares
    }

    /// Whether there are parts at all.
    #[inline(always)]
    pub(super) const fn exist(&self) -> bool {
        !self.parts.is_empty()
    }

    /// All parts together keep half of the limit at most.
    pub(super) fn follow(&self, limit: u32) {
        if self.exist() {
            let most = limit / 2 / self.parts.len() as u32;
            // Relaxed: whoever reads an old one keeps one permit more or less.
            self.most.store(most, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn mine(&self) -> Option<&AtomicU32> {
        if !self.exist() {
            return None;
        }
        let part = self.parts.get(home() & (self.parts.len() - 1))?;
        Some(&part.0)
    }

    /// Takes a permit out of the thread's part.
    #[inline(always)]
    pub(super) fn take(&self) -> bool {
        let Some(part) = self.mine() else {
            return false;
        };
        // Relaxed: a first guess.
        let kept = part.load(Ordering::Relaxed);
        if kept == 0 || kept >= CLOSED {
            return false;
        }
        // Acquire: what the last holder of this permit did happens before what we do. A failure
        // means that others are here: the word has room for us, or tells that there is none.
        part.compare_exchange(kept, kept - 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Leaves a permit in the thread's part. `false`: there are too many now, and the caller is to
    /// take one out.
    ///
    /// An addition without a look before, which would wait for the last change to be over.
    #[inline(always)]
    pub(super) fn keep(&self) -> bool {
        let Some(part) = self.mine() else {
            return false;
        };
        // Release: what we did happens before what the next holder does. Acquire: who finds the part
        // closed then finds in the word why.
        part.fetch_add(1, Ordering::AcqRel) < self.most.load(Ordering::Relaxed)
    }

    /// Takes a permit out of the thread's part, be it closed or not; `false` if there is none.
    ///
    /// No more than one: permits that are on their way from here to the word are nowhere, so they
    /// have to be those of calls that have not been over for long.
    pub(super) fn take_back(&self) -> bool {
        let Some(part) = self.mine() else {
            return false;
        };
        let less = |kept: u32| (kept & !CLOSED > 0).then(|| kept - 1);
        // Acquire, as in `take`.
        part.fetch_update(Ordering::Acquire, Ordering::Relaxed, less)
            .is_ok()
    }

    /// What the parts keep. Exact when nobody takes or gives.
    pub(super) fn kept(&self) -> u32 {
        let parts = self.parts.iter();
        parts
            .map(|part| part.0.load(Ordering::Relaxed) & !CLOSED)
            .sum()
    }

    /// What [`closed_since`](Self::closed_since) asks for.
    #[inline(always)]
    pub(super) fn turn(&self) -> u64 {
        // Acquire: who finds the parts closed finds in the word what they kept.
        self.turn.load(Ordering::Acquire)
    }

    /// Whether the parts were closed at that turn and have been since: what was read of the word
    /// between the two calls tells everything.
    #[inline(always)]
    pub(super) fn closed_since(&self, turn: u64) -> bool {
        turn % 2 == 0 && self.turn() == turn
    }

    /// Nobody else opens or closes the parts meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        lock_checked(&self.gate)
    }

    /// Closes the parts, under the lock, and takes out what they keep. [`closed`](Self::closed)
    /// follows once the word knows of it. `None`: they are closed.
    ///
    /// Then nothing is taken out: a permit in a closed part is on its way to the word, by way of
    /// somebody who will see there whether it is waited for.
    pub(super) fn close(&self) -> Option<u32> {
        // Relaxed: only changed under the lock.
        if self.turn.load(Ordering::Relaxed) % 2 == 0 {
            return None;
        }
        let parts = self.parts.iter();
        // Acquire, as in `take`. Release, for whoever finds the part closed.
        Some(
            parts
                .map(|part| part.0.swap(CLOSED, Ordering::AcqRel) & !CLOSED)
                .sum(),
        )
    }

    /// The parts are closed, and the word knows of what they kept. Under the lock.
    pub(super) fn closed(&self) {
        // Relaxed: only changed under the lock. Release, see `turn`.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Release);
    }

    /// Whether so few would be kept that it is none.
    pub(super) fn are_none(&self) -> bool {
        // Relaxed, as in `follow`.
        self.most.load(Ordering::Relaxed) == 0
    }

    /// Opens the parts, under the lock, if `may` still says so after it is known that they may be
    /// open.
    pub(super) fn open(&self, may: impl FnOnce() -> bool) -> bool {
        // Relaxed: only changed under the lock, and published by what `may` does to the word.
        let turn = self.turn.load(Ordering::Relaxed);
        if turn % 2 == 1 {
            return true;
        }
        self.turn.store(turn + 1, Ordering::Relaxed);
        if self.are_none() || !may() {
            self.turn.store(turn + 2, Ordering::Release);
            return false;
        }
        for part in &self.parts {
            // Who leaves a permit just now may not have taken it out yet. Release: who finds the part
            // open finds the turn odd.
            part.0.fetch_and(!CLOSED, Ordering::Release);
        }
        true
    }
}

/// How many processors the program may use, asked once.
#[cfg(not(backstop_loom))]
fn processors() -> u32 {
    use std::sync::OnceLock;
    use std::thread::available_parallelism;

    static PROCESSORS: OnceLock<u32> = OnceLock::new();
    *PROCESSORS.get_or_init(|| {
        available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
    })
}

#[cfg(backstop_loom)]
const fn processors() -> u32 {
    2
}
