//! Letters in memory.

use std::future::ready;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::{DeadLetterError, DeadLetterErrorKind};
use super::sink::{Changed, Page, Sink, SinkFuture, Store};
use super::state::book::{self, Book, Entry, Totals};
use super::state::letter::{Change, Letter, LetterId, Standing};
use super::state::retention::{Limits, WhenFull};
use super::state::timestamp::Timestamp;
use crate::error::ConfigError;
use crate::event::LetterEvent;
use crate::sync::lock;

/// Keeps letters in memory, up to a maximum number. They are lost when the process ends.
///
/// The defaults are in the table of the [module page](super).
#[derive(Debug)]
pub struct MemorySink<R> {
    limits: Limits,
    next_id: AtomicU64,
    kept: Mutex<Kept<R>>,
}

#[derive(Debug)]
struct Kept<R> {
    book: Book<Letter<R>>,
    events: Vec<LetterEvent>,
}

impl<R> MemorySink<R> {
    /// Returns a sink with the default settings.
    pub fn new() -> Self {
        Self::with(Limits {
            max_letters: 10_000,
            max_bytes: u64::MAX,
            max_age: Duration::MAX,
            when_full: WhenFull::Reject,
        })
    }

    fn with(limits: Limits) -> Self {
        Self {
            limits,
            next_id: AtomicU64::new(1),
            kept: Mutex::new(Kept {
                book: Book::new(limits),
                events: Vec::new(),
            }),
        }
    }

    /// Sets the largest number of letters.
    #[must_use]
    pub fn max_letters(self, letters: u64) -> Self {
        Self::with(Limits {
            max_letters: letters,
            ..self.limits
        })
    }

    /// Sets the largest age of a letter. Older letters are not returned, and are evicted when the next one is stored.
    #[must_use]
    pub fn max_age(self, age: Duration) -> Self {
        Self::with(Limits {
            max_age: age,
            ..self.limits
        })
    }

    /// Sets the behavior of a full sink. Default: [`WhenFull::Reject`].
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Self::with(Limits {
            when_full,
            ..self.limits
        })
    }

    /// Checks the settings.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_limits(&self.limits)
    }

    fn insert(&self, letter: Letter<R>) -> Result<(), DeadLetterError> {
        // Dropped after the lock is released, because dropping a request is user code.
        let mut gone;
        let mut kept = lock(&self.kept);
        gone = kept.book.expire(letter.stored_at());
        let stored = if kept.book.has_room((0, 0), 0) {
            let entry = Entry {
                bytes: 0,
                stored_at: letter.stored_at(),
                standing: Standing::default(),
                place: letter,
            };
            kept.book.insert(entry.place.id(), entry);
            gone.append(&mut kept.book.overflow());
            Ok(())
        } else {
            Err(letter)
        };
        kept.events.extend(
            gone.iter()
                .map(|(id, _, cause)| LetterEvent::evicted(id.get(), *cause)),
        );
        drop(kept);
        stored.map_err(|_| {
            DeadLetterError::new(DeadLetterErrorKind::Full)
                .during(format!("{} letters", self.limits.max_letters))
        })
    }
}

/// Checks the limits.
pub(super) fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    let error = |setting, problem| Err(ConfigError::new("dead_letter", setting, problem));
    if limits.max_letters == 0 {
        return error("max_letters", "must be at least 1");
    }
    if limits.max_bytes == 0 {
        return error("max_bytes", "must be at least 1");
    }
    if limits.max_age.is_zero() {
        return error("max_age", "must be more than zero");
    }
    Ok(())
}

impl<R> Default for MemorySink<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Send + Sync> Sink<R> for MemorySink<R> {
    fn store(&self, letter: Letter<R>) -> SinkFuture<'_, ()> {
        Box::pin(ready(self.insert(letter)))
    }

    fn kept(&self) -> Option<&dyn Store<R>> {
        Some(self)
    }

    fn take_events(&self) -> Vec<LetterEvent> {
        std::mem::take(&mut lock(&self.kept).events)
    }
}

impl<R: Send + Sync> Store<R> for MemorySink<R> {
    fn next_id(&self) -> LetterId {
        // Relaxed: a number publishes nothing.
        LetterId::new(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn page(&self, after: Option<LetterId>, max: usize, now: Timestamp) -> SinkFuture<'_, Page<R>> {
        let kept = lock(&self.kept);
        let mut rest = kept.book.after(after, now);
        let letters: Vec<_> = rest
            .by_ref()
            .take(max)
            .map(|(_, entry)| entry.place.clone().with(entry.standing.clone()))
            .collect();
        let more = rest.next().is_some();
        drop(rest);
        drop(kept);
        let mut page = Page::new(letters);
        page.next = page.letters.last().map(Letter::id).filter(|_| more);
        Box::pin(ready(Ok(page)))
    }

    fn change(&self, id: LetterId, change: Change) -> SinkFuture<'_, Option<Changed>> {
        let changed = lock(&self.kept).book.change(id, &change);
        Box::pin(ready(Ok(match changed {
            book::Changed::Unknown => None,
            book::Changed::Stands(standing) => {
                Some(Changed::new(standing.replays, standing.parked))
            }
            book::Changed::Gone(entry) => {
                let Standing {
                    replays, parked, ..
                } = entry.standing;
                Some(Changed::new(replays, parked))
            }
        })))
    }

    fn totals(&self) -> Totals {
        lock(&self.kept).book.totals()
    }
}
