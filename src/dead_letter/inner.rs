//! State shared by the handles of a queue.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use super::error::{DeadLetterError, DeadLetterErrorKind};
use super::sink::{Changed, Sink, Store};
use super::state::letter::{Change, Letter, LetterId, NewLetter};
use super::state::timestamp::Timestamp;
use super::wall::WallClock;
use crate::clock::ClockHandle;
use crate::deadline;
use crate::event::{Event, Eviction, LetterEvent, Observer, Panics};
use crate::instant::Instant;
use crate::rng::{SharedRng, identifier};

pub(super) struct Inner<R> {
    pub(super) name: &'static str,
    pub(super) clock: ClockHandle,
    pub(super) wall: Box<WallClock>,
    pub(super) sink: Box<dyn Sink<R>>,
    pub(super) redact: Option<Box<Redact<R>>>,
    pub(super) redact_error: Option<Box<RedactError>>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) rng: SharedRng,
    pub(super) max_error_bytes: usize,
    pub(super) max_replays: u32,
    /// The number of the next letter, for sinks that assign none.
    pub(super) next_id: AtomicU64,
    pub(super) replaying: AtomicBool,
    pub(super) counts: Counts,
}

pub(super) type Redact<R> = dyn Fn(&mut NewLetter<R>) + Send + Sync;
pub(super) type RedactError = dyn Fn(&str) -> String + Send + Sync;

/// Counters of the snapshot. Relaxed, because they publish nothing.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stored: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) discarded: AtomicU64,
    pub(super) damaged: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

impl<R> Inner<R> {
    pub(super) fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// Returns the store of the sink, or an error if its letters cannot be read.
    pub(super) fn store(&self) -> Result<&dyn Store<R>, DeadLetterError> {
        let store = self.sink.kept();
        store.ok_or_else(|| DeadLetterErrorKind::WriteOnly.into())
    }

    /// Redacts a letter and assigns its number. All user code of a push runs here, before anything is stored, so a
    /// panic stores nothing.
    pub(super) fn seal(&self, mut letter: NewLetter<R>) -> Letter<R> {
        letter.error = self.redacted(&letter.error);
        if let Some(redact) = &self.redact {
            redact(&mut letter);
        }
        let now = self.now();
        let id = match self.sink.kept() {
            Some(store) => store.next_id(),
            None => LetterId::new(self.next_id.fetch_add(1, Ordering::Relaxed)),
        };
        letter.seal(id, now, || self.random_key())
    }

    /// Returns an error message, redacted and cut to the maximum length.
    pub(super) fn redacted(&self, error: &str) -> String {
        let mut text = match &self.redact_error {
            Some(redact) => redact(error),
            None => error.to_owned(),
        };
        if text.len() > self.max_error_bytes {
            let mut end = self.max_error_bytes;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        text
    }

    /// Returns a random key of 128 bits, as text.
    fn random_key(&self) -> String {
        if !self.rng.is_seeded() {
            let [high, low] = identifier();
            return format!("{high:016x}{low:016x}");
        }
        // `unit` has only 53 random bits, so each draw yields 32 of them.
        let bits = || (self.rng.unit() * (1_u64 << 43) as f64) as u64 & 0xFFFF_FFFF;
        let [a, b, c, d] = [bits(), bits(), bits(), bits()];
        format!("{a:08x}{b:08x}{c:08x}{d:08x}")
    }

    /// Stores a letter. Gives up at the deadline of the task.
    pub(super) async fn push(&self, letter: NewLetter<R>) -> Result<LetterId, DeadLetterError> {
        let letter = self.seal(letter);
        let id = letter.id();
        let push = Push { inner: self };
        let stored = self.before_deadline(self.sink.store(letter)).await;
        std::mem::forget(push);
        match &stored {
            Ok(()) => {
                add(&self.counts.stored, 1);
                self.emit(LetterEvent::Stored { id: id.get() });
            }
            Err(error) => self.not_stored(error.kind()),
        }
        self.report_sink();
        stored.map(|()| id)
    }

    fn not_stored(&self, kind: DeadLetterErrorKind) {
        add(&self.counts.rejected, 1);
        let reason = kind.as_str();
        self.emit(LetterEvent::NotStored { reason });
    }

    async fn before_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, DeadLetterError>>,
    ) -> Result<T, DeadLetterError> {
        let mut work = pin!(work);
        let mut sleep = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            let deadline = deadline::inherited(&self.clock, self.clock.now());
            if deadline == Instant::FAR_FUTURE {
                return Poll::Pending;
            }
            let sleep = sleep.get_or_insert_with(|| Box::pin(self.clock.sleep_until(deadline)));
            match sleep.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(DeadLetterErrorKind::Unconfirmed.into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Changes a letter and reports the change.
    pub(super) async fn change(
        &self,
        id: LetterId,
        change: Change,
    ) -> Result<Option<Changed>, DeadLetterError> {
        let parks = match &change {
            Change::Park => true,
            Change::Failed { park, .. } => *park,
            _ => false,
        };
        let discards = change == Change::Discard;
        let changed = self.store()?.change(id, change).await?;
        if let Some(Changed { replays, .. }) = changed {
            add(&self.counts.discarded, u64::from(discards));
            if parks {
                let id = id.get();
                self.emit(LetterEvent::Parked { id, replays });
            }
        }
        self.report_sink();
        Ok(changed)
    }

    /// Reports the events of the sink.
    pub(super) fn report_sink(&self) {
        let events = self.sink.take_events();
        for event in &events {
            match event {
                LetterEvent::Evicted {
                    cause: Eviction::Age,
                    ..
                } => add(&self.counts.expired, 1),
                LetterEvent::Evicted { .. } => add(&self.counts.evicted, 1),
                LetterEvent::Damaged { lines } => add(&self.counts.damaged, *lines),
                _ => {}
            }
        }
        // The observer gets every event, even if it panics at one of them.
        let mut panics = Panics::default();
        for event in events {
            panics.run(|| self.emit(event));
        }
        panics.resume();
    }

    pub(super) fn emit(&self, event: LetterEvent) {
        if let Some(observer) = &self.observer {
            observer.on_event(&Event::DeadLetter {
                policy: self.name,
                pipeline: None,
                event,
            });
        }
    }
}

/// A push that has not ended. Dropping it reports that the letter is not confirmed.
struct Push<'a, R> {
    inner: &'a Inner<R>,
}

impl<R> Drop for Push<'_, R> {
    fn drop(&mut self) {
        // A panic may drop the push. Then no other panic may escape.
        let mut panics = Panics::default();
        panics.run(|| self.inner.not_stored(DeadLetterErrorKind::Unconfirmed));
        panics.resume();
    }
}
