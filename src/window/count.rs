//! The last `n` calls.

use std::time::Duration;

use self::word::Word;
use super::{Counts, Sample, Tracks};
use crate::sync::{AtomicU64, Ordering};

mod word;

/// A window over the last `n` calls.
///
/// A good call recorded into a window that is full of good calls changes nothing and writes nothing,
/// so a healthy dependency costs no shared write.
///
/// # Exactness
///
/// Small windows, up to 56 calls or 28 with slow calls, are one atomic word: every record is one
/// step. Larger ones are a ring of bits: a call takes the next place, then fills it. The counters
/// always come to equal the content; a thread that is stopped between the two for a whole turn of
/// the ring fills a place that is a newer call's by then.
#[derive(Debug)]
pub(crate) struct CountWindow {
    /// What a good call would change: a [`Word`], or the [`UNSETTLED`] bit and the number of marks
    /// in the places of a [`Ring`]. Zero, for one look to be enough, when it would change nothing.
    marks: AtomicU64,
    size: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Word(Word),
    Ring(Box<Ring>),
    /// Of no calls.
    Nothing,
}

impl CountWindow {
    /// An empty window over the last `size` calls, at least one.
    pub(crate) fn new(size: u32, tracks: Tracks) -> Self {
        let size = u64::from(size.max(1));
        let in_a_word = if tracks.slow { 28 } else { 56 };
        let form = if size <= in_a_word && !tracks.durations {
            Form::Word(Word::new(size, tracks.slow))
        } else {
            Form::Ring(Box::new(Ring::new(size, tracks)))
        };
        let window = Self {
            marks: AtomicU64::new(0),
            size,
            form,
        };
        window.clear();
        window
    }

    /// A window over no calls, which nothing changes.
    pub(crate) fn nothing() -> Self {
        Self {
            marks: AtomicU64::new(0),
            size: 0,
            form: Form::Nothing,
        }
    }

    /// Whether a good call would change nothing. Costs a load.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled() == 0
    }

    /// Zero if it [is settled](Self::is_settled).
    #[inline]
    pub(crate) fn unsettled(&self) -> u64 {
        // Relaxed, here and below, where nothing else is said: the numbers publish nothing else.
        self.marks.load(Ordering::Relaxed)
    }

    /// Adds a call, and gives the content after it.
    #[inline]
    pub(crate) fn record(&self, sample: Sample) -> Counts {
        self.push(sample).unwrap_or_else(|| self.counts())
    }

    /// As [`record`](Self::record), but gives the content only if the share of the failures or of
    /// the slow calls can have grown: not when a clean call took the place of another.
    #[inline(always)]
    pub(crate) fn push(&self, sample: Sample) -> Option<Counts> {
        if sample.is_clean() && self.is_settled() {
            return None;
        }
        match &self.form {
            Form::Word(word) => {
                let (old, new) = word.push(&self.marks, sample);
                let was_full = old >> Word::MISSING == 0;
                (!(was_full && sample.is_clean())).then(|| word.counts(new, self.size))
            }
            Form::Ring(ring) => {
                let was_full = ring.push(&self.marks, self.size, sample);
                (!(was_full && sample.is_clean())).then(|| ring.counts(&self.marks, self.size))
            }
            Form::Nothing => None,
        }
    }

    /// As [`push`](Self::push), for a good call, where only failures are tracked: what most calls
    /// are, in as few steps as there can be. What takes more is left to
    /// [`after_good`](Self::after_good).
    #[inline(always)]
    pub(crate) fn push_good(&self) -> Pushed {
        match &self.form {
            Form::Word(word) => {
                let (old, new) = word.push(&self.marks, Sample::default());
                match old >> Word::MISSING {
                    0 => Pushed::All,
                    _ => Pushed::Part(new),
                }
            }
            Form::Ring(ring) => ring.push_good(&self.marks, self.size),
            Form::Nothing => Pushed::All,
        }
    }

    /// Ends a [`push_good`](Self::push_good), and gives what [`push`](Self::push) does.
    pub(crate) fn after_good(&self, pushed: Pushed) -> Option<Counts> {
        let Pushed::Part(part) = pushed else {
            return None;
        };
        match &self.form {
            Form::Word(word) => Some(word.counts(part, self.size)),
            Form::Ring(ring) => {
                let place = ring.turn_over(&self.marks, part, self.size);
                ring.fill(&self.marks, place, Sample::default());
                let was_full = part as i64 >= 0;
                (!was_full).then(|| ring.counts(&self.marks, self.size))
            }
            Form::Nothing => None,
        }
    }

    /// The content.
    pub(crate) fn counts(&self) -> Counts {
        match &self.form {
            Form::Word(word) => word.counts(self.marks.load(Ordering::Relaxed), self.size),
            Form::Ring(ring) => ring.counts(&self.marks, self.size),
            Form::Nothing => Counts::default(),
        }
    }

    /// Empties it. Calls recorded meanwhile may survive or not.
    pub(crate) fn clear(&self) {
        match &self.form {
            Form::Word(_) => {
                let empty = self.size << Word::MISSING;
                self.marks.store(empty, Ordering::Relaxed);
            }
            Form::Ring(ring) => {
                ring.clear(self.size);
                // Release: whoever comes upon this finds the ring empty.
                self.marks.swap(UNSETTLED, Ordering::Release);
            }
            Form::Nothing => {}
        }
    }
}

/// How far a good call has got into a window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pushed {
    /// It is in, and no rule can hold.
    All,
    /// It is in a [`Word`], which is this now; or has this [`Turn`] of a [`Ring`] and is not in yet.
    Part(u64),
}

/// A ring of places, one or two bits each.
#[derive(Debug)]
struct Ring {
    turn: Turn,
    /// What the places hold: [`FAILED`] and, where slow calls are tracked, [`SLOW`].
    words: Box<[AtomicU64]>,
    bits: u64,
    /// Marks of one kind; of failures only where there are slow calls too.
    failures: AtomicU64,
    slow: AtomicU64,
    slow_failures: AtomicU64,
    /// Nanoseconds by place, where durations are tracked, and their sum.
    durations: Box<[AtomicU64]>,
    took: AtomicU64,
}

/// Which place is next, as a signed number: below zero while the window fills for the first time,
/// with minus one for the last place; from zero to its size, exclusive, from then on.
///
/// By itself in its cache line: in a window that is not clean every call moves it on, and hardly any
/// changes what else is looked at.
#[derive(Debug)]
#[repr(align(64))]
struct Turn(AtomicU64);

/// The [`Turn`] of the last place that is filled for the first time.
const FIRST_TURNS_LAST: u64 = u64::MAX;

/// A good call changes a [`Ring`] although nothing in it is marked: it is not full, or adds up
/// durations.
const UNSETTLED: u64 = 1 << 63;

const FAILED: u64 = 1;
const SLOW: u64 = 2;

impl Ring {
    fn new(size: u64, tracks: Tracks) -> Self {
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        let bits = if tracks.slow { 2 } else { 1 };
        Self {
            turn: Turn(AtomicU64::new(0)),
            words: zeros((size * bits).div_ceil(64)),
            bits,
            failures: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_failures: AtomicU64::new(0),
            durations: zeros(if tracks.durations { size } else { 0 }),
            took: AtomicU64::new(0),
        }
    }

    /// Adds a call; whether it took the place of another.
    #[inline(always)]
    fn push(&self, marks: &AtomicU64, size: u64, sample: Sample) -> bool {
        let turn = self.turn.0.fetch_add(1, Ordering::Relaxed);
        let was_full = turn as i64 >= 0;
        let mut place = if was_full {
            turn
        } else {
            turn.wrapping_add(size)
        };
        if place + 1 >= size {
            place = self.turn_over(marks, turn, size);
        }
        self.fill(marks, place, sample);
        was_full
    }

    /// As [`CountWindow::push_good`].
    #[inline(always)]
    fn push_good(&self, marks: &AtomicU64, size: u64) -> Pushed {
        let turn = self.turn.0.fetch_add(1, Ordering::Relaxed);
        // One look for the last place of a turn and for the first turn, which is below zero.
        if turn >= size - 1 {
            return Pushed::Part(turn);
        }
        let content = self.words[(turn / 64) as usize].load(Ordering::Relaxed);
        if content >> (turn % 64) & 1 != 0 {
            self.change(marks, turn, 0);
        }
        Pushed::All
    }

    /// A place: the last one of a turn, or any.
    #[cold]
    fn turn_over(&self, marks: &AtomicU64, turn: u64, size: u64) -> u64 {
        let place = turn.wrapping_add(size) % size;
        if turn == FIRST_TURNS_LAST {
            self.settle(marks);
        } else if place + 1 == size {
            // Once in each turn, by a whole one: what others have taken meanwhile keeps its place.
            self.turn.0.fetch_sub(size, Ordering::Relaxed);
        }
        place
    }

    /// All places are taken for the first time.
    fn settle(&self, marks: &AtomicU64) {
        if !self.durations.is_empty() {
            // Each call changes the sum.
            return;
        }
        // Acquire: if the window was emptied before this, that is seen below, and it is not full.
        let _ = marks.fetch_update(Ordering::Acquire, Ordering::Relaxed, |marks| {
            Some(number(marks) as u64)
        });
        if !self.is_full() {
            let _ = marks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |marks| {
                Some((number(marks) as u64).wrapping_add(UNSETTLED))
            });
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.turn.0.load(Ordering::Relaxed) as i64 >= 0
    }

    #[inline]
    fn fill(&self, marks: &AtomicU64, place: u64, sample: Sample) {
        if !self.durations.is_empty() {
            let before = self.durations[place as usize].swap(sample.took, Ordering::Relaxed);
            self.took
                .fetch_add(sample.took.wrapping_sub(before), Ordering::Relaxed);
        }
        let slow = sample.slow && self.bits == 2;
        let new = u64::from(sample.failed) * FAILED + u64::from(slow) * SLOW;
        let place = place << (self.bits - 1);
        let content = self.words[(place / 64) as usize].load(Ordering::Relaxed);
        if (content >> (place % 64)) & self.all() != new {
            self.change(marks, place, new);
        }
    }

    /// All bits of a place.
    #[inline]
    const fn all(&self) -> u64 {
        (1 << self.bits) - 1
    }

    /// Fills the place that begins at bit `at`.
    #[cold]
    fn change(&self, marks: &AtomicU64, at: u64, new: u64) {
        let word = &self.words[(at / 64) as usize];
        let shift = at % 64;
        let mut content = word.load(Ordering::Relaxed);
        loop {
            let old = (content >> shift) & self.all();
            if old == new {
                return;
            }
            let changed = content ^ ((old ^ new) << shift);
            match word.compare_exchange_weak(content, changed, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return self.recount(marks, old, new),
                Err(now) => content = now,
            }
        }
    }

    /// Follows a place that held `old` and holds `new`.
    fn recount(&self, marks: &AtomicU64, old: u64, new: u64) {
        // Minus one is a wrapping plus: a counter may pass below zero while two threads follow one
        // place, and `counted` reads that as zero.
        let follow = |counter: &AtomicU64, before: u32, after: u32| {
            if before != after {
                let change = u64::from(after).wrapping_sub(u64::from(before));
                counter.fetch_add(change, Ordering::Relaxed);
            }
        };
        if self.bits == 2 {
            for (counter, kind) in [
                (&self.failures, FAILED),
                (&self.slow, SLOW),
                (&self.slow_failures, FAILED | SLOW),
            ] {
                let has = |held: u64| u32::from(held & kind == kind);
                follow(counter, has(old), has(new));
            }
        }
        follow(marks, old.count_ones(), new.count_ones());
    }

    fn counts(&self, marks: &AtomicU64, size: u64) -> Counts {
        let turn = self.turn.0.load(Ordering::Relaxed);
        let calls = if turn as i64 >= 0 {
            size
        } else {
            turn.wrapping_add(size)
        };
        let mut counts = Counts {
            calls,
            failures: counted(marks.load(Ordering::Relaxed), calls),
            ..Counts::default()
        };
        if self.bits == 2 {
            let of = |counter: &AtomicU64| counted(counter.load(Ordering::Relaxed), calls);
            counts.failures = of(&self.failures);
            counts.slow = of(&self.slow);
            counts.slow_failures = of(&self.slow_failures);
        }
        if !self.durations.is_empty() {
            counts.took = Duration::from_nanos(self.took.load(Ordering::Relaxed));
        }
        counts
    }

    fn clear(&self, size: u64) {
        for place in [&self.words, &self.durations].into_iter().flatten() {
            place.store(0, Ordering::Relaxed);
        }
        for counter in [&self.failures, &self.slow, &self.slow_failures, &self.took] {
            counter.store(0, Ordering::Relaxed);
        }
        // Swapped and not stored, and so are the marks: the model checker then has an order for them.
        let empty = 0_u64.wrapping_sub(size);
        self.turn.0.swap(empty, Ordering::Relaxed);
    }
}

/// A counter's value, between zero and `calls` also while it is being changed.
fn counted(value: u64, calls: u64) -> u64 {
    (number(value).max(0) as u64).min(calls)
}

/// A counter's value but for [`UNSETTLED`], which is above the sign.
const fn number(value: u64) -> i64 {
    (value << 1) as i64 >> 1
}

#[cfg(test)]
impl CountWindow {
    /// A window that is a ring also where it would fit into a word.
    pub(super) fn ring(size: u32, tracks: Tracks) -> Self {
        let size = u64::from(size);
        let window = Self {
            marks: AtomicU64::new(0),
            size,
            form: Form::Ring(Box::new(Ring::new(size, tracks))),
        };
        window.clear();
        window
    }

    /// The counts by looking at every place, for windows at rest.
    pub(super) fn recounted(&self) -> Counts {
        let Form::Ring(ring) = &self.form else {
            return self.counts();
        };
        let mut counts = Counts {
            calls: self.counts().calls,
            ..Counts::default()
        };
        for place in 0..self.size {
            let word = ring.words[(place * ring.bits / 64) as usize].load(Ordering::Relaxed);
            let held = (word >> (place * ring.bits % 64)) & ((1 << ring.bits) - 1);
            counts.failures += u64::from(held & FAILED != 0);
            counts.slow += u64::from(held & SLOW != 0);
            counts.slow_failures += u64::from(held == FAILED | SLOW);
        }
        for took in &ring.durations {
            counts.took += Duration::from_nanos(took.load(Ordering::Relaxed));
        }
        let marks = self.marks.load(Ordering::Relaxed);
        assert_eq!(number(marks) as u64, counts.failures + counts.slow);
        let is_settled = counts.calls == self.size && ring.durations.is_empty();
        assert_eq!(marks & UNSETTLED == 0, is_settled);
        counts
    }
}
