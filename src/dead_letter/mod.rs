#![cfg_attr(
    all(feature = "tokio", feature = "dead-letter-file"),
    doc = include_str!("../../docs/patterns/dead-letters.md")
)]
#![cfg_attr(
    not(all(feature = "tokio", feature = "dead-letter-file")),
    doc = "Dead letters: requests of calls that finally failed, kept and replayed."
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::inner::Inner;
use self::sink::PAGE;
use self::state::groups::Groups;
use self::state::letter::Change;

#[cfg(feature = "tokio")]
mod channel;
mod config;
mod error;
#[cfg(feature = "dead-letter-file")]
mod file;
mod inner;
mod memory;
mod policy;
mod replay;
mod sink;
mod snapshot;
mod state;
mod wall;

#[cfg(feature = "tokio")]
pub use self::channel::ChannelSink;
pub use self::config::DeadLetterQueueBuilder;
pub use self::error::{DeadLetterError, DeadLetterErrorKind};
#[cfg(feature = "dead-letter-file")]
pub use self::file::{FileSink, FileSinkBuilder, FileSnapshot};
pub use self::memory::MemorySink;
pub use self::policy::{ReplayThrough, Resend, Sending};
pub use self::replay::{Replay, ReplayPlan, ReplayReport};
pub use self::sink::{Changed, Page, Sink, SinkFuture, Store};
pub use self::snapshot::Snapshot;
pub use self::state::book::Totals;
pub use self::state::filter::Filter;
pub use self::state::groups::{Group, GroupBy};
pub use self::state::letter::{Change as LetterChange, FailedReplay, Letter, LetterId, NewLetter};
pub use self::state::progress::{Progress, ReplayEnd};
pub use self::state::retention::WhenFull;
pub use self::state::timestamp::{InvalidTimestamp, Timestamp};
#[doc(no_inline)]
pub use crate::event::{Eviction, LetterEvent};

/// Keeps the requests of calls that finally failed, and replays them. See the [module page](self).
///
/// Cheap to clone: clones share everything.
pub struct DeadLetterQueue<R> {
    inner: Arc<Inner<R>>,
}

impl<R: Send + Sync + 'static> DeadLetterQueue<R> {
    fn of(inner: Arc<Inner<R>>) -> Self {
        Self { inner }
    }

    /// Returns the name in events and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Stores a letter. Completes once the letter is as durable as the sink can make it: with a file sink, on the disk.
    ///
    /// Within a [`deadline`](crate::deadline) it waits no longer than that.
    ///
    /// # Errors
    ///
    /// When the letter is not stored, or when that is not certain
    /// ([`Unconfirmed`](DeadLetterErrorKind::Unconfirmed), [`Io`](DeadLetterErrorKind::Io)).
    ///
    /// # Cancel safety
    ///
    /// Nothing happens before the first poll. If the future is dropped after that, a file sink still stores the
    /// letter, and the letter counts as [`Unconfirmed`](DeadLetterErrorKind::Unconfirmed) in events and snapshots.
    pub async fn push(&self, letter: NewLetter<R>) -> Result<LetterId, DeadLetterError> {
        self.inner.push(letter).await
    }

    /// Like [`push`](Self::push), but blocks the thread. Use it in programs without a runtime.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn push_blocking(&self, letter: NewLetter<R>) -> Result<LetterId, DeadLetterError> {
        crate::clock::blocking::block_on(self.inner.push(letter))
    }

    /// Returns up to `max` letters that match the filter, oldest first. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read. Individual unreadable letters are listed in the page.
    pub async fn peek(&self, filter: &Filter<R>, max: usize) -> Result<Page<R>, DeadLetterError> {
        let mut found = Page::new(Vec::new());
        if max == 0 {
            return Ok(found);
        }
        let mut full = false;
        let unreadable = self
            .scan(filter, |letter| {
                full = found.letters.len() == max;
                if !full {
                    found.letters.push(letter);
                }
                !full
            })
            .await?;
        found.unreadable = unreadable;
        found.next = found.letters.last().map(Letter::id).filter(|_| full);
        if let Some(last) = found.next {
            // Those that follow are listed in the next page.
            found.unreadable.retain(|id| *id < last);
        }
        Ok(found)
    }

    /// Returns the letter with this number; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read, or the letter cannot ([`Unreadable`](DeadLetterErrorKind::Unreadable)).
    pub async fn get(&self, id: LetterId) -> Result<Option<Letter<R>>, DeadLetterError> {
        let page = self.peek(&Filter::new().ids(id, id), 1).await?;
        if page.unreadable.contains(&id) {
            return Err(DeadLetterErrorKind::Unreadable.into());
        }
        Ok(page.letters.into_iter().next())
    }

    /// Counts the letters that match the filter. For the number of all letters, [`snapshot`](Self::snapshot) is
    /// faster.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read.
    pub async fn count(&self, filter: &Filter<R>) -> Result<u64, DeadLetterError> {
        let mut count = 0;
        self.scan(filter, |_| {
            count += 1;
            true
        })
        .await?;
        Ok(count)
    }

    /// Counts the letters that match the filter by group, the largest group first.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read.
    pub async fn groups(
        &self,
        by: GroupBy,
        filter: &Filter<R>,
    ) -> Result<Vec<Group>, DeadLetterError> {
        let mut groups = Groups::new(by);
        self.scan(filter, |letter| {
            groups.add(&letter);
            true
        })
        .await?;
        Ok(groups.into_sorted())
    }

    /// Discards a letter. Returns whether it existed.
    ///
    /// # Errors
    ///
    /// When the sink cannot confirm it.
    pub async fn discard(&self, id: LetterId) -> Result<bool, DeadLetterError> {
        let changed = self.inner.change(id, Change::Discard).await?;
        Ok(changed.is_some())
    }

    /// Discards all letters that match the filter. Returns their number.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read or changed. Some letters may have been discarded then.
    pub async fn discard_all(&self, filter: &Filter<R>) -> Result<u64, DeadLetterError> {
        let mut ids = Vec::new();
        self.scan(filter, |letter| {
            ids.push(letter.id());
            true
        })
        .await?;
        let mut discarded = 0;
        for id in ids {
            discarded += u64::from(self.discard(id).await?);
        }
        Ok(discarded)
    }

    /// Parks a letter: it is kept, but not replayed. Returns whether it exists.
    ///
    /// # Errors
    ///
    /// When the sink cannot confirm it.
    pub async fn park(&self, id: LetterId) -> Result<bool, DeadLetterError> {
        let changed = self.inner.change(id, Change::Park).await?;
        Ok(changed.is_some())
    }

    /// Makes a parked letter replayable again, with no replays counted. Returns whether it exists.
    ///
    /// # Errors
    ///
    /// When the sink cannot confirm it.
    pub async fn unpark(&self, id: LetterId) -> Result<bool, DeadLetterError> {
        let changed = self.inner.change(id, Change::Unpark).await?;
        Ok(changed.is_some())
    }

    /// Returns a replay of the letters that are not parked, oldest first.
    pub fn replay(&self) -> Replay<R> {
        Replay::new(self.inner.clone())
    }

    /// Closes the sink. Completes once all stored letters are as durable as the sink can make them. The folder of a
    /// file sink can be opened again afterwards.
    ///
    /// # Errors
    ///
    /// An error if a letter could not be synced.
    pub async fn close(&self) -> Result<(), DeadLetterError> {
        let closed = self.inner.sink.close().await;
        self.inner.report_sink();
        closed
    }

    /// Returns counts and gauges. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// Passes each letter that matches the filter to `visit`, until `visit` returns false. Returns the letters that
    /// cannot be read.
    async fn scan(
        &self,
        filter: &Filter<R>,
        mut visit: impl FnMut(Letter<R>) -> bool,
    ) -> Result<Vec<LetterId>, DeadLetterError> {
        let store = self.inner.store()?;
        let now = self.inner.now();
        let mut unreadable = Vec::new();
        let mut after = filter.begins_after();
        let size = filter.wanted_ids().min(PAGE);
        loop {
            let page = store.page(after, size, now).await?;
            let wanted = |id: &LetterId| *id <= filter.ends_with();
            unreadable.extend(page.unreadable.into_iter().filter(wanted));
            for letter in page.letters {
                if letter.id() > filter.ends_with() {
                    return Ok(unreadable);
                }
                if filter.matches(&letter, now) && !visit(letter) {
                    return Ok(unreadable);
                }
            }
            after = filter.continues_after(page.next);
            if after.is_none() {
                return Ok(unreadable);
            }
        }
    }
}

impl<R> Inner<R> {
    fn snapshot(&self) -> Snapshot {
        let totals = self.sink.kept().map(|store| store.totals());
        let totals = totals.unwrap_or_default();
        let counts = &self.counts;
        // Relaxed: counters, read for display.
        let [
            stored,
            rejected,
            evicted,
            expired,
            delivered,
            failed_replays,
            discarded,
            damaged,
        ] = [
            &counts.stored,
            &counts.rejected,
            &counts.evicted,
            &counts.expired,
            &counts.delivered,
            &counts.failed,
            &counts.discarded,
            &counts.damaged,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        Snapshot {
            name: self.name,
            letters: totals.letters,
            parked: totals.parked,
            bytes: totals.bytes,
            oldest: totals.oldest,
            stored,
            rejected,
            evicted,
            expired,
            delivered,
            failed_replays,
            discarded,
            damaged,
            replaying: self.replaying.load(Ordering::Relaxed),
        }
    }
}

impl<R> Clone for DeadLetterQueue<R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<R> fmt::Debug for DeadLetterQueue<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.inner.snapshot();
        f.debug_tuple("DeadLetterQueue").field(&snapshot).finish()
    }
}
