//! The builder of dead letter queues.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::DeadLetterQueue;
use super::inner::{Counts, Inner, Redact, RedactError};
use super::memory::MemorySink;
use super::sink::Sink;
use super::state::letter::NewLetter;
use super::state::timestamp::Timestamp;
use super::wall::{WallClock, system_time};
use crate::blocking;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::event::Observer;
use crate::rng::SharedRng;

/// Builds a [`DeadLetterQueue`].
///
/// The defaults are in the table of the [module page](super). Not `Clone`: it owns its sink, which belongs to one queue.
#[must_use = "a builder does nothing until `build`"]
pub struct DeadLetterQueueBuilder<R> {
    sink: Chosen<R>,
    max_replays: u32,
    max_error_bytes: usize,
    redact: Option<Box<Redact<R>>>,
    redact_error: Option<Box<RedactError>>,
    timestamps: Box<WallClock>,
    seed: Option<u64>,
    observer: Option<Arc<dyn Observer>>,
    name: &'static str,
    clock: Option<ClockHandle>,
    requests: PhantomData<fn(R) -> R>,
}

enum Chosen<R> {
    Memory(MemorySink<R>),
    Own(Box<dyn Sink<R>>),
}

impl<R: Send + Sync + 'static> DeadLetterQueue<R> {
    /// Returns a builder with the default settings.
    pub fn builder() -> DeadLetterQueueBuilder<R> {
        DeadLetterQueueBuilder {
            sink: Chosen::Memory(MemorySink::new()),
            max_replays: 5,
            max_error_bytes: 4096,
            redact: None,
            redact_error: None,
            timestamps: Box::new(system_time),
            seed: None,
            observer: None,
            name: "dead_letters",
            clock: ClockHandle::preset(),
            requests: PhantomData,
        }
    }
}

impl<R: Send + Sync + 'static> DeadLetterQueueBuilder<R> {
    /// Keeps letters in memory, with settings other than the default ones.
    pub fn memory(mut self, sink: MemorySink<R>) -> Self {
        self.sink = Chosen::Memory(sink);
        self
    }

    /// Sets the sink that letters are stored in: a [`FileSink`](super::FileSink), a
    /// [`ChannelSink`](super::ChannelSink), or one of your own.
    pub fn sink(mut self, sink: impl Sink<R> + 'static) -> Self {
        self.sink = Chosen::Own(Box::new(sink));
        self
    }

    /// Sets the largest number of replays of a letter, over all runs. When the last replay fails, the letter is
    /// parked.
    pub const fn max_replays(mut self, replays: u32) -> Self {
        self.max_replays = replays;
        self
    }

    /// Sets the length to which error messages are cut, in bytes. Zero stores no text.
    pub const fn max_error_bytes(mut self, bytes: usize) -> Self {
        self.max_error_bytes = bytes;
        self
    }

    /// Sets a function that removes secrets, such as card numbers and tokens, from each letter before it is stored.
    /// It may also encrypt, if the type of request allows that.
    ///
    /// If it panics, the letter is not stored, and the panic propagates to the caller of `push`.
    pub fn redact(mut self, redact: impl Fn(&mut NewLetter<R>) + Send + Sync + 'static) -> Self {
        self.redact = Some(Box::new(move |letter: &mut NewLetter<R>| {
            blocking::outside(|| redact(letter));
        }));
        self
    }

    /// Sets a function that returns the text to store in place of an error message, including those of replays. It is
    /// called before [`redact`](Self::redact).
    pub fn redact_error(mut self, redact: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.redact_error = Some(Box::new(move |text: &str| {
            blocking::outside(|| redact(text))
        }));
        self
    }

    /// Sets the source of wall-clock time, for the times in letters and for retention by age. Useful in tests.
    pub fn timestamps<T: Into<Timestamp>>(
        mut self,
        now: impl Fn() -> T + Send + Sync + 'static,
    ) -> Self {
        self.timestamps = Box::new(move || blocking::outside(&now).into());
        self
    }

    setters! {
        /// Makes the idempotency keys of this queue reproducible. Useful in tests: two queues with the same seed
        /// produce
        /// the same keys.
        seed;
        /// Sets the observer of the queue's events.
        observer;
        /// Sets the name in events and snapshots.
        name;
        /// Sets the clock that paces replays.
        clock;
    }

    /// Builds the queue.
    ///
    /// # Errors
    ///
    /// When a setting is invalid, or there is no clock.
    pub fn build(self) -> Result<DeadLetterQueue<R>, ConfigError> {
        let error = |setting, problem| ConfigError::new(self.name, setting, problem);
        let Some(clock) = self.clock else {
            return Err(error("clock", "must be given without the feature `tokio`"));
        };
        if self.max_replays == 0 {
            return Err(error("max_replays", "must be at least 1"));
        }
        let sink = match self.sink {
            Chosen::Memory(memory) => {
                memory.check()?;
                Box::new(memory)
            }
            Chosen::Own(sink) => sink,
        };
        let inner = Inner {
            name: self.name,
            clock,
            wall: self.timestamps,
            sink,
            redact: self.redact,
            redact_error: self.redact_error,
            observer: self.observer,
            rng: SharedRng::new(self.seed),
            max_error_bytes: self.max_error_bytes,
            max_replays: self.max_replays,
            next_id: AtomicU64::new(1),
            replaying: AtomicBool::new(false),
            counts: Counts::default(),
        };
        // Reports faults that the sink found when it was opened.
        inner.report_sink();
        Ok(DeadLetterQueue::of(Arc::new(inner)))
    }
}

impl<R> fmt::Debug for DeadLetterQueueBuilder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterQueueBuilder")
            .field("max_replays", &self.max_replays)
            .field("max_error_bytes", &DebugLimit(&self.max_error_bytes))
            .field("redacts", &self.redact.is_some())
            .field("redacts_errors", &self.redact_error.is_some())
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
